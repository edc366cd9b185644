//! Whom we believe to be a registry: the system's authorities, and what `certs.d/<host>` adds.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::settings::{Registries, is_loopback};
use crate::image::ImageError;

/// The next moves of somebody whom TLS stops.
pub(super) const OF_SERVER: &str =
    "put the certificate of its authority into `certs.d/HOST/ca.crt` below ~/.config/ficelle or /etc/docker";
pub(super) const OF_CLIENT: &str =
    "put yours into `certs.d/HOST/client.cert` and `client.key` below ~/.config/ficelle or /etc/docker";

/// The client's side of TLS with one host. An insecure one, or one on loopback that the user gave no
/// authority for, may show any certificate.
pub(super) fn config(host: &str, settings: &Registries) -> Result<ClientConfig, ImageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = own_files(host, &settings.certificates)?;
    let insecure = settings.is_insecure(host) || (is_loopback(host) && own.authorities.is_empty());
    let mut roots = RootCertStore::empty();
    // A broken file among the system's is the system's matter; what can be read counts.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(own.authorities.iter().cloned());
    let believed = if roots.is_empty() {
        None
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Some(verifier.build().map_err(|error| wrong(host, &error))?)
    };
    let pinned = own.authorities;
    build(host, Verifier { believed, pinned, provider, insecure }, own.identity)
}

/// For a connection without TLS: nobody is believed.
pub(super) fn unused(host: &str) -> Result<ClientConfig, ImageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    build(host, Verifier { believed: None, pinned: Vec::new(), provider, insecure: false }, None)
}

fn build(host: &str, verifier: Verifier, identity: Option<Identity>) -> Result<ClientConfig, ImageError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(host, &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(|error| wrong(host, &error)),
        None => Ok(config.with_no_client_auth()),
    }
}

fn wrong(host: &str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError::Invalid(format!("TLS for registry {host}: {error}"))
}

/// Certificates from ours up, and our key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[derive(Default)]
struct OwnFiles {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

/// `*.crt` are authorities, `x.cert` with `x.key` is who we are.
fn own_files(host: &str, directories: &[PathBuf]) -> Result<OwnFiles, ImageError> {
    let mut found = OwnFiles::default();
    for directory in directories {
        let Ok(entries) = fs::read_dir(directory.join(host)) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(certificates(&path)?),
                Some("cert") if found.identity.is_none() => {
                    let key = path.with_extension("key");
                    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
                    found.identity = Some((certificates(&path)?, key));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ImageError> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Debug) -> ImageError {
    ImageError::Invalid(format!("`{}` cannot be read as PEM: {error:?}", path.display()))
}

/// The usual check, and one more way to pass it: being the very certificate that the user put into
/// `certs.d`. Self-signed ones are marked as authorities by most tools, and no server may use such.
#[derive(Debug)]
struct Verifier {
    /// Absent when this machine has no authorities at all.
    believed: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    insecure: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.insecure {
            return Ok(ServerCertVerified::assertion());
        }
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let Some(believed) = &self.believed else {
            return Err(Error::General(
                "this machine has no certificate authorities (package ca-certificates)".into(),
            ));
        };
        believed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
