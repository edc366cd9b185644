//! Connections, straight or through the proxy that the environment names.

use std::{
    error::Error as StdError,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{
    Uri,
    header::HeaderValue,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::{
        legacy::connect::{Connected, Connection, HttpConnector, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower_service::Service;

use super::settings::{Registries, is_loopback};

type BoxError = Box<dyn StdError + Send + Sync>;

/// What is said with TLS goes through a tunnel of the proxy; other requests are put to the proxy itself. Nothing
/// that is for this machine goes there.
#[derive(Clone)]
pub(super) struct Route {
    direct: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Route {
    pub(super) fn new(direct: HttpConnector, settings: &Registries) -> Self {
        Self { direct, proxies: Arc::new(proxies(settings)) }
    }
}

fn proxies(settings: &Registries) -> Matcher {
    let address = |proxy: &Option<String>| proxy.clone().unwrap_or_default();
    let all = Matcher::builder().https(address(&settings.proxy)).http(address(&settings.plain_proxy));
    all.no(settings.no_proxy.clone()).build()
}

fn proxy(proxies: &Matcher, uri: &Uri) -> Option<Intercept> {
    let near = uri.authority().is_some_and(|authority| is_loopback(authority.as_str()));
    if near { None } else { proxies.intercept(uri) }
}

/// What a request that is put to a proxy says to be let through.
pub(super) fn login_at_proxy(settings: &Registries, uri: &Uri) -> Option<HeaderValue> {
    settings.plain_proxy.as_ref().filter(|_| uri.scheme_str() == Some("http"))?;
    proxy(&proxies(settings), uri)?.basic_auth().cloned()
}

/// A connection, which knows whether its requests must say for whom they are.
pub(super) struct Wire {
    io: TokioIo<TcpStream>,
    to_proxy: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.to_proxy)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

impl Service<Uri> for Route {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(proxy) = proxy(&self.proxies, &uri) else {
            let connecting = self.direct.call(uri);
            return Box::pin(async move { Ok(Wire { io: connecting.await?, to_proxy: false }) });
        };
        let address = proxy.uri().clone();
        if address.scheme_str() != Some("http") {
            // Not the address itself: a login may stand in it.
            let kind = address.scheme_str().unwrap_or_default().to_owned();
            return Box::pin(
                async move { Err(format!("a proxy of the kind `{kind}://` is not known").into()) },
            );
        }
        let shown = address.host().unwrap_or_default().to_owned();
        let failed =
            move |error: &dyn fmt::Display| BoxError::from(format!("through proxy {shown}: {error}"));
        if uri.scheme_str() == Some("http") {
            let connecting = self.direct.call(address);
            return Box::pin(async move {
                let io = connecting.await.map_err(|error| failed(&error))?;
                Ok(Wire { io, to_proxy: true })
            });
        }
        let mut tunnel = Tunnel::new(address, self.direct.clone());
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        let connecting = tunnel.call(uri);
        Box::pin(async move {
            let io = connecting.await.map_err(|error| failed(&error))?;
            Ok(Wire { io, to_proxy: false })
        })
    }
}
