//! `sidehook verify`: is this webhook what it claims to be? Needs no running sidehook and no configuration.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::{UsageError, exit, print};
use crate::clock::Clock;
use crate::config::values;
use crate::secret::Secret;
use crate::sign::{VerifyKey, verify};

/// Arguments of `sidehook verify`.
#[derive(clap::Args)]
#[command(
    about = "Verifies a webhook's signature",
    after_help = "Example:\n  sidehook verify --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw \\\n    --id msg_p5jXN8AQM9LWM0D4loKWxJek --timestamp 1614265330 --no-tolerance \\\n    --signature v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= body.json\n\nExit codes: 0 good, 1 bad (with the reason), 2 usage."
)]
pub struct Args {
    /// A key that may have signed: `whsec_…`, `whpk_…` or `whsk_…`; may be given several times.
    #[arg(long, required = true, value_name = "SECRET", env = "SIDEHOOK_SECRET", hide_env_values = true)]
    secret: Vec<String>,
    /// The webhook-id header.
    #[arg(long)]
    id: String,
    /// The webhook-timestamp header: whole seconds since 1970.
    #[arg(long, allow_hyphen_values = true)]
    timestamp: String,
    /// The webhook-signature header, all of it.
    #[arg(long)]
    signature: String,
    /// How far the timestamp may be from now, in either direction.
    #[arg(long, default_value = "5m", value_parser = values::duration)]
    tolerance: Duration,
    /// Does not look at how old the timestamp is.
    #[arg(long, conflicts_with = "tolerance")]
    no_tolerance: bool,
    /// The body, byte for byte as it arrived; `-` reads standard input.
    file: PathBuf,
}

/// Verifies; exit 0 when the signature is good, 1 with the reason when it is not.
pub fn run(args: Args) -> anyhow::Result<u8> {
    let Args { secret, id, timestamp, signature, tolerance, no_tolerance, file } = args;
    let mut keys = Vec::with_capacity(secret.len());
    for secret in secret {
        let key = VerifyKey::parse(&Secret::new(secret));
        keys.push(key.map_err(|error| UsageError(format!("--secret: {error}")))?);
    }
    let body = if file.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::stdin().lock().read_to_end(&mut body).context("standard input")?;
        body
    } else {
        std::fs::read(&file).with_context(|| file.display().to_string())?
    };
    let tolerance = (!no_tolerance).then_some(tolerance);
    match verify(&keys, &id, &timestamp, &signature, &body, Clock::System.now(), tolerance) {
        Ok(()) => {
            print("good: the signature is right\n")?;
            Ok(exit::OK)
        }
        Err(reason) => {
            print(&format!("bad: {reason}\n"))?;
            Ok(exit::FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn verified(extra: &[&str], body: &str) -> anyhow::Result<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("body");
        std::fs::write(&file, body).expect("written");
        let file = file.to_str().expect("text").to_owned();
        let fixed = ["verify", "--id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "--timestamp", "1614265330"];
        let all = fixed.iter().chain(extra).map(|s| (*s).to_owned()).chain([file]);
        run(Cli::try_parse_from(all).expect("usable arguments").args)
    }

    #[test]
    fn good_is_0_bad_is_1_and_an_unusable_secret_is_an_error() {
        let secret = ["--secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
        let signature = ["--signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="];
        let both = [secret, signature].concat();
        let body = r#"{"test": 2432232314}"#;
        assert_eq!(verified(&[&both[..], &["--no-tolerance"]].concat(), body).expect("ran"), exit::OK);
        assert_eq!(verified(&both, body).expect("ran"), exit::FAILED, "years too old");
        assert_eq!(verified(&[&both[..], &["--no-tolerance"]].concat(), "{}").expect("ran"), exit::FAILED);
        let error = verified(&[&["--secret", "hunter2"][..], &signature].concat(), body).expect_err("no key");
        assert!(format!("{error:#}").starts_with("--secret: a signing secret begins with"), "{error:#}");
    }
}
