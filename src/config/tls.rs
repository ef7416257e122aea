//! `tls` of a destination: certificates and keys are read and held against each other at load, so that a bad one is a
//! problem of the configuration and never of a delivery. Opens no connection.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::decode::Decoder;
use super::fields::Fields;
use super::model::{ClientCert, Tls};
use super::reader::sha256;
use super::shape;
use super::yaml::Node;

/// Reads `tls` of a webhook.
pub fn decode(d: &mut Decoder<'_>, webhook: &Fields<'_>) -> Tls {
    let mut tls = Tls::default();
    let mut identity = String::new();
    if let Some(fields) = webhook.get("tls").and_then(|node| d.fields(node, &shape::TLS, None)) {
        if let Some(node) = fields.get("ca_file") {
            tls.ca = authorities(d, node);
        }
        tls.client = client(d, &fields).map(Arc::new);
        tls.server_name = server_name(d, &fields);
        tls.min_tls13 = min_version(d, &fields);
    }
    for certificate in &tls.ca {
        identity.push_str(&sha256(certificate));
    }
    identity.push('|');
    if let Some(client) = &tls.client {
        client.chain.iter().for_each(|c| identity.push_str(&sha256(c)));
        identity.push_str(&sha256(client.key.secret_der()));
    }
    let _ = write!(identity, "|{}|{}", tls.server_name.as_deref().unwrap_or_default(), tls.min_tls13);
    tls.identity = sha256(identity.as_bytes());
    tls
}

/// The certificates of a PEM file; a problem names the file.
fn certificates(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<CertificateDer<'static>>> {
    let name = d.text(node)?;
    let path = d.locate(&name);
    let bytes = d.file_bytes(node, &path)?;
    let shown = d.show(&path);
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => {
            let help = "it must hold -----BEGIN CERTIFICATE----- blocks".to_owned();
            d.problem(node.span, format!("the file {shown} holds no PEM certificate"), Some(help));
            None
        }
        Err(error) => {
            d.problem(node.span, format!("the file {shown} is no PEM file: {error}"), None);
            None
        }
    }
}

fn authorities(d: &mut Decoder<'_>, node: &Node) -> Vec<CertificateDer<'static>> {
    let Some(found) = certificates(d, node) else { return Vec::new() };
    let mut store = RootCertStore::empty();
    for (i, certificate) in found.iter().enumerate() {
        if let Err(error) = store.add(certificate.clone()) {
            let shown = d.text(node).map(|t| d.show(&d.locate(&t))).unwrap_or_default();
            let message = format!("certificate {} of the file {shown} cannot be trusted: {error}", i + 1);
            d.problem(node.span, message, Some("put a CA certificate there".to_owned()));
        }
    }
    found
}

fn client(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<ClientCert> {
    let (cert_node, key_node) = (fields.get("client_cert_file"), fields.get("client_key_file"));
    let (cert_node, key_node) = match (cert_node, key_node) {
        (None, None) => return None,
        (Some(cert), Some(key)) => (cert, key),
        (Some(one), None) => {
            d.problem(one.span, "a client certificate needs its key", Some("add `client_key_file`".to_owned()));
            return None;
        }
        (None, Some(one)) => {
            d.problem(one.span, "a client key needs its certificate", Some("add `client_cert_file`".to_owned()));
            return None;
        }
    };
    let chain = certificates(d, cert_node);
    let name = d.text(key_node)?;
    let path = d.locate(&name);
    let bytes = d.file_bytes(key_node, &path)?;
    let shown = d.show(&path);
    let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes) else {
        let help = "it must hold an unencrypted -----BEGIN PRIVATE KEY----- block".to_owned();
        d.problem(key_node.span, format!("the file {shown} holds no PEM private key"), Some(help));
        return None;
    };
    let signer = match any_supported_type(&key) {
        Ok(signer) => signer,
        Err(error) => {
            let help = "RSA, ECDSA (P-256, P-384, P-521) and Ed25519 keys are supported".to_owned();
            d.problem(key_node.span, format!("the key in {shown} cannot be used: {error}"), Some(help));
            return None;
        }
    };
    let chain = chain?;
    if let Err(error) = CertifiedKey::new(chain.clone(), signer).keys_match() {
        let certificate = d.text(cert_node).map(|t| d.show(&d.locate(&t))).unwrap_or_default();
        let message = format!("the key in {shown} does not belong to the first certificate in {certificate}: {error}");
        d.problem(key_node.span, message, Some("the chain goes leaf first".to_owned()));
        return None;
    }
    Some(ClientCert { chain, key })
}

fn server_name(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<String> {
    let node = fields.get("server_name")?;
    let name = d.text(node)?;
    if ServerName::try_from(name.as_str()).is_err() {
        let help = "write a host name, without scheme or port".to_owned();
        d.problem(node.span, format!("{} is no host name", d.quote(node)), Some(help));
        return None;
    }
    Some(name)
}

fn min_version(d: &mut Decoder<'_>, fields: &Fields<'_>) -> bool {
    let Some(node) = fields.get("min_version") else { return false };
    match d.loose(node).as_deref() {
        Some("1.3") => true,
        Some("1.2") | None => false,
        Some(_) => {
            d.problem(
                node.span,
                format!("{} is no TLS version to ask for", d.quote(node)),
                Some("write \"1.2\" or \"1.3\"".to_owned()),
            );
            false
        }
    }
}
