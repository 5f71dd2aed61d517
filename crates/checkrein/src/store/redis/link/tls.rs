//! What a TLS connection trusts and shows.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::store::redis::address::Tls;

/// Reads the certificates and makes the settings of all TLS connections of a store. The errors name files, and nothing
/// that is in them.
pub(super) fn settings(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|_| {
                    format!("`{}` contains a certificate that cannot be an authority's", file.display())
                })?;
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used here: {error}"))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error, "private key"))?;
            builder.with_client_auth_cert(chain, secret).map_err(|_| {
                format!(
                    "the key in `{}` does not fit the certificate in `{}`",
                    key.display(),
                    certificate.display()
                )
            })?
        }
    };
    Ok(Arc::new(config))
}

/// One end of a TLS connection with a host. Nothing has been sent yet.
pub(super) fn client(settings: &Arc<ClientConfig>, host: &str) -> Result<ClientConnection, String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("`{host}` is not a name that a certificate can be for"))?;
    ClientConnection::new(Arc::clone(settings), name).map_err(|error| format!("TLS failed: {error}"))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(file, &error, "certificate"))?;
    if all.is_empty() {
        return Err(format!("`{}` contains no certificate (PEM)", file.display()));
    }
    Ok(all)
}

fn unreadable(file: &Path, error: &PemError, what: &str) -> String {
    match error {
        PemError::Io(error) => format!("`{}` cannot be read: {error}", file.display()),
        _ => format!("`{}` contains no {what} (PEM)", file.display()),
    }
}
