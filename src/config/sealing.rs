//! `outbox.encryption_key`: a text of keys, one a line. Opens and seals nothing itself.

use super::decode::Decoder;
use super::yaml::Node;
use crate::limits;
use crate::secret::SecretKey;

const HELP: &str = "`sidehook secret new --outbox` makes one; write one a line, the one that seals first";

/// The keys; none where anything is wrong with one, which is recorded and says no more than its line.
pub fn keys(d: &mut Decoder<'_>, node: &Node) -> Vec<SecretKey> {
    let Some(secret) = d.secret(node) else { return Vec::new() };
    let mut keys: Vec<SecretKey> = Vec::new();
    let mut wrong = None;
    for (n, line) in (1..).zip(secret.expose().lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        wrong = match SecretKey::parse(line) {
            None => Some(format!("line {n} of the encryption key is not 32 bytes in base64")),
            Some(key) if keys.contains(&key) => Some(format!("line {n} of the encryption key is there twice")),
            Some(_) if keys.len() == limits::ENCRYPTION_KEYS => {
                Some(format!("there are more than {} encryption keys", limits::ENCRYPTION_KEYS))
            }
            Some(key) => {
                keys.push(key);
                continue;
            }
        };
        break;
    }
    if wrong.is_none() && keys.is_empty() {
        wrong = Some("the encryption key is blank".to_owned());
    }
    if let Some(wrong) = wrong {
        d.problem(node.span, wrong, Some(HELP.to_owned()));
        return Vec::new();
    }
    keys
}
