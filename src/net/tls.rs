//! TLS settings for both directions. The crypto provider is handed to rustls explicitly; there is no process-wide one.

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::model::Tls;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A CA certificate is not usable.
    #[error("a certificate of tls.ca_file cannot be used: {0}")]
    Ca(rustls::Error),
    /// The client certificate is not usable.
    #[error("the client certificate and its key cannot be used: {0}")]
    Client(rustls::Error),
    /// The server certificate is not usable.
    #[error("the certificate and its key cannot be used: {0}")]
    Server(String),
    /// rustls refused the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Protocols offered and accepted, best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// The store inside the binary; shared, since it has some 150 entries.
fn built_in_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let make = || Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    ROOTS.get_or_init(make).clone()
}

/// Settings for a destination: the built-in store plus `ca`, client certificate, minimum version, ALPN for HTTP/2 and
/// HTTP/1.1.
pub fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let roots = if tls.ca.is_empty() {
        built_in_roots()
    } else {
        let mut roots = RootCertStore::clone(&built_in_roots());
        for certificate in &tls.ca {
            roots.add(certificate.clone()).map_err(TlsError::Ca)?;
        }
        Arc::new(roots)
    };
    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls.min_tls13 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| TlsError::Setup(e.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::Setup(e.to_string()))?
        .with_webpki_verifier(verifier);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            builder.with_client_auth_cert(client.chain.clone(), client.key.clone_key()).map_err(TlsError::Client)?
        }
    };
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// Settings for a listener, from PEM texts.
pub fn server_config(cert_pem: &[u8], key_pem: &[u8]) -> Result<ServerConfig, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::Server(format!("the certificate is not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(TlsError::Server("the certificate file holds no CERTIFICATE block".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|e| TlsError::Server(format!("the key file holds no usable PRIVATE KEY block: {e}")))?;
    server_from(chain, key)
}

/// A certificate authority and a server certificate that live in memory only.
pub struct SelfSigned {
    /// What clients must trust, PEM.
    pub ca_pem: String,
    /// The certificate in DER, for [`Tls::ca`].
    pub ca: CertificateDer<'static>,
    /// Settings for the listener.
    pub server: ServerConfig,
}

/// Makes a fresh authority and a server certificate for `names` (host names and addresses).
pub fn self_signed(names: &[String]) -> Result<SelfSigned, TlsError> {
    let setup = |e: rcgen::Error| TlsError::Setup(e.to_string());
    let mut params = CertificateParams::new(Vec::new()).map_err(setup)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "sidehook local authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate().map_err(setup)?;
    let ca = params.self_signed(&ca_key).map_err(setup)?;
    let issuer = Issuer::new(params, ca_key);

    let mut params = CertificateParams::new(names.to_vec()).map_err(setup)?;
    params.distinguished_name.push(DnType::CommonName, "sidehook local receiver");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(setup)?;
    let leaf = params.signed_by(&key, &issuer).map_err(setup)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| TlsError::Setup(e.to_owned()))?;
    let server = server_from(vec![leaf.der().clone()], key)?;
    Ok(SelfSigned { ca_pem: ca.pem(), ca: ca.der().clone(), server })
}

fn server_from(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Setup(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Server(e.to_string()))?;
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}
