//! `sidehook secret`: makes secrets from the operating system's random source. Writes them to standard output only.

use std::io::{self, Write as _};

use anyhow::Context as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::exit;
use crate::clock::Entropy;

/// Arguments of `secret`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidehook secret new > /run/secrets/crm")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Prints a new secret.
    #[command(after_help = "Examples:\n  sidehook secret new                # whsec_…, for HMAC-SHA256 (v1)\n  \
        sidehook secret new --ed25519      # whsk_… for sidehook, whpk_… for the receiver (v1a)\n  \
        sidehook secret new --outbox       # 32 bytes for outbox.encryption_key")]
    New(New),
}

#[derive(Debug, Clone, clap::Args)]
struct New {
    /// An ed25519 key pair: the first line is the secret, the second what receivers verify with.
    #[arg(long, conflicts_with = "outbox")]
    ed25519: bool,
    /// A key for `outbox.encryption_key`.
    #[arg(long)]
    outbox: bool,
    /// Length of an HMAC secret, in bytes.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u8).range(24..=64),
        conflicts_with_all = ["ed25519", "outbox"])]
    bytes: u8,
    /// Print as JSON: {"secret", "public"}.
    #[arg(long)]
    json: bool,
}

/// A secret, and what verifies it where that is something else.
struct Made {
    secret: Zeroizing<String>,
    public: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let Command::New(new) = &args.command;
    let made = make(new, &Entropy::system())?;
    // Written as it is: a text made of it would not be wiped.
    let mut out = io::stdout().lock();
    if new.json {
        writeln!(out, "{}", json!({"secret": made.secret.as_str(), "public": made.public}))?;
    } else {
        writeln!(out, "{}", made.secret.as_str())?;
        if let Some(public) = &made.public {
            writeln!(out, "{public}")?;
        }
    }
    Ok(exit::OK)
}

fn make(new: &New, entropy: &Entropy) -> anyhow::Result<Made> {
    let mut bytes = Zeroizing::new(vec![0; if new.ed25519 || new.outbox { 32 } else { usize::from(new.bytes) }]);
    entropy.fill(&mut bytes);
    if new.outbox {
        return Ok(Made { secret: Zeroizing::new(STANDARD.encode(bytes.as_slice())), public: None });
    }
    if !new.ed25519 {
        return Ok(Made {
            secret: Zeroizing::new(format!("whsec_{}", STANDARD.encode(bytes.as_slice()))),
            public: None,
        });
    }
    let pair = Ed25519KeyPair::from_seed_unchecked(&bytes).ok().context("these random bytes make no ed25519 key")?;
    let public = pair.public_key().as_ref();
    // The secret form holds the seed and the public key, as the Standard Webhooks vectors do.
    let mut whole = Zeroizing::new(bytes.to_vec());
    whole.extend_from_slice(public);
    Ok(Made {
        secret: Zeroizing::new(format!("whsk_{}", STANDARD.encode(whole.as_slice()))),
        public: Some(format!("whpk_{}", STANDARD.encode(public))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::sign::SigningKey;

    fn new(ed25519: bool, outbox: bool, bytes: u8) -> Made {
        make(&New { ed25519, outbox, bytes, json: false }, &Entropy::system()).expect("a secret")
    }

    #[test]
    fn what_is_made_can_be_signed_with() {
        for bytes in [24, 32, 64] {
            let made = new(false, false, bytes);
            assert!(SigningKey::parse(&Secret::new(made.secret.as_str())).is_ok(), "{bytes}");
        }
        let made = new(true, false, 32);
        let key = SigningKey::parse(&Secret::new(made.secret.as_str())).expect("a key");
        assert_eq!(key.public(), made.public);
        let outbox = new(false, true, 32);
        assert_eq!(STANDARD.decode(outbox.secret.as_bytes()).map(|b| b.len()), Ok(32));
        assert_ne!(new(false, false, 32).secret, new(false, false, 32).secret);
    }
}
