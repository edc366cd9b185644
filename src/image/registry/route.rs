//! Connections, straight or through the proxy that the environment names.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::Uri;
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower_service::Service;

use super::settings::{Registries, is_loopback};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Registries without TLS are near ones; only TLS goes through a proxy, and never to this machine.
#[derive(Clone)]
pub(super) struct Route {
    direct: HttpConnector,
    proxies: Option<Arc<Matcher>>,
}

impl Route {
    pub(super) fn new(direct: HttpConnector, settings: &Registries) -> Self {
        let proxies = settings.proxy.as_ref().map(|proxy| {
            Arc::new(Matcher::builder().https(proxy.clone()).no(settings.no_proxy.clone()).build())
        });
        Self { direct, proxies }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("proxied", &self.proxies.is_some()).finish_non_exhaustive()
    }
}

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let near = uri.authority().is_some_and(|authority| is_loopback(authority.as_str()));
        let proxy =
            if near { None } else { self.proxies.as_ref().and_then(|proxies| proxies.intercept(&uri)) };
        let Some(proxy) = proxy else {
            let connecting = self.direct.call(uri);
            return Box::pin(async move { connecting.await.map_err(Into::into) });
        };
        let address = proxy.uri().clone();
        if address.scheme_str() != Some("http") {
            // Not the address itself: a login may stand in it.
            let kind = address.scheme_str().unwrap_or_default().to_owned();
            return Box::pin(
                async move { Err(format!("a proxy of the kind `{kind}://` is not known").into()) },
            );
        }
        let mut tunnel = Tunnel::new(address.clone(), self.direct.clone());
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        let connecting = tunnel.call(uri);
        Box::pin(async move {
            let shown = address.host().unwrap_or_default().to_owned();
            connecting.await.map_err(|error| format!("through proxy {shown}: {error}").into())
        })
    }
}
