//! `sidehook listen`: a local receiver that verifies and prints what arrives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{UsageError, exit, print, runtime};
use crate::clock::Clock;
use crate::config::model::Listen;
use crate::config::values;
use crate::net::receiver::{Received, Receiver, ReceiverOptions};
use crate::net::tls;
use crate::secret::Secret;
use crate::sign::VerifyKey;

/// Arguments of `sidehook listen`.
#[derive(clap::Args)]
#[command(
    about = "Receives webhooks locally, verifies and prints them",
    after_help = "Examples:\n  sidehook listen --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n  sidehook listen --addr 127.0.0.1:9443 --tls --ca-file receiver-ca.pem   # tls: {ca_file: receiver-ca.pem}\n  sidehook listen --status 503 --count 3 --json"
)]
pub struct Args {
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9000", value_parser = ip_and_port)]
    addr: SocketAddr,
    /// A key that may have signed: `whsec_…`, `whpk_…` or `whsk_…`; may be given several times. Without one nothing is
    /// verified.
    #[arg(long, value_name = "SECRET", env = "SIDEHOOK_SECRET", hide_env_values = true)]
    secret: Vec<String>,
    /// How far a timestamp may be from now, in either direction.
    #[arg(long, default_value = "5m", value_parser = values::duration)]
    tolerance: Duration,
    /// Speaks TLS with a certificate made for this run.
    #[arg(long, conflicts_with_all = ["cert", "key"])]
    tls: bool,
    /// Where the authority of that certificate is written; name it in `tls.ca_file`.
    #[arg(long, value_name = "FILE", default_value = "sidehook-listen-ca.pem", requires = "tls")]
    ca_file: PathBuf,
    /// Speaks TLS with this certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// What to answer; a webhook that does not verify gets 401.
    #[arg(long, default_value = "200", value_parser = status)]
    status: StatusCode,
    /// Ends after so many requests: 0 when all verified, else 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Prints one JSON object a request.
    #[arg(long)]
    json: bool,
}

fn ip_and_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write IP:PORT, such as 127.0.0.1:9000 or [::1]:9000".to_owned())
}

fn status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse::<StatusCode>().map_err(|_| format!("{text:?} is not an HTTP status"))?;
    if status.is_informational() {
        return Err("a status below 200 does not end an answer; write one such as 200 or 503".to_owned());
    }
    Ok(status)
}

/// Receives until SIGINT, SIGTERM or `--count`.
pub fn run(args: Args) -> anyhow::Result<u8> {
    runtime()?.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<u8> {
    let Args { addr, secret, tolerance, tls: self_signed, ca_file, cert, key, status, count, json } = args;
    let mut keys = Vec::with_capacity(secret.len());
    for secret in secret {
        let key = VerifyKey::parse(&Secret::new(secret));
        keys.push(key.map_err(|error| UsageError(format!("--secret: {error}")))?);
    }
    let read = |file: &PathBuf| std::fs::read(file).with_context(|| file.display().to_string());
    let server = match (self_signed, &cert, &key) {
        (true, _, _) => {
            let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
            let own = addr.ip().to_string();
            if !addr.ip().is_unspecified() && !names.contains(&own) {
                names.push(own);
            }
            let made = tls::self_signed(&names)?;
            std::fs::write(&ca_file, &made.ca_pem).with_context(|| ca_file.display().to_string())?;
            Some(made.server)
        }
        (false, Some(cert), Some(key)) => Some(tls::server_config(&read(cert)?, &read(key)?)?),
        _ => None,
    };
    let scheme = if server.is_some() { "https" } else { "http" };
    let verifies = !keys.is_empty();
    let listen = Listen::Tcp(addr);
    let options =
        ReceiverOptions { listen, tls: server, keys, tolerance: Some(tolerance), status, clock: Clock::System };
    let receiver = Receiver::bind(options).await?;
    if json {
        let line = json!({"listening": format!("{scheme}://{}", receiver.local()), "verifies": verifies});
        print(&format!("{line}\n"))?;
    } else {
        let how = if verifies { "" } else { " (no --secret: nothing is verified)" };
        print(&format!("Listening at {scheme}://{}{how}\n", receiver.local()))?;
        if self_signed {
            print(&format!("Its authority is in {}\n", ca_file.display()))?;
        }
    }
    let stop = CancellationToken::new();
    let mut requests = receiver.start(stop.clone());
    let (mut seen, mut refused) = (0_u64, 0_u64);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            _ = tokio::signal::ctrl_c() => None,
            _ = terminate.recv() => None,
        };
        let Some(request) = request else { return Ok(exit::OK) };
        print(&if json { format!("{}\n", as_json(&request)) } else { as_text(&request) })?;
        seen += 1;
        refused += u64::from(matches!(request.verified, Some(Err(_))));
        if count.is_some_and(|count| seen >= count) {
            break;
        }
    }
    // The last answer is on its way; let it go out.
    stop.cancel();
    while requests.recv().await.is_some() {}
    Ok(if refused == 0 { exit::OK } else { exit::FAILED })
}

fn as_json(request: &Received) -> Value {
    let headers: serde_json::Map<_, _> = request.headers.iter().map(|(n, v)| (n.clone(), v.as_str().into())).collect();
    let body = serde_json::from_slice::<Value>(&request.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&request.body).into_owned().into());
    json!({
        "at": request.at.to_string(),
        "method": request.method,
        "path": request.path,
        "version": request.version,
        "headers": headers,
        "body": body,
        "verified": request.verified.as_ref().map(Result::is_ok),
        "error": request.verified.as_ref().and_then(|v| v.as_ref().err()).map(ToString::to_string),
    })
}

fn as_text(request: &Received) -> String {
    use std::fmt::Write as _;
    let verified = match &request.verified {
        None => "not verified".to_owned(),
        Some(Ok(())) => "signature good".to_owned(),
        Some(Err(reason)) => format!("SIGNATURE BAD: {reason}"),
    };
    let Received { at, method, path, version, .. } = request;
    // What a stranger sends must not reach the terminal as control sequences.
    let mut text = format!("\n{at} {method} {} {version}: {verified}\n", path.escape_debug());
    for (name, value) in &request.headers {
        let _ = writeln!(text, "  {name}: {}", value.escape_debug());
    }
    let body = match serde_json::from_slice::<Value>(&request.body) {
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_default(),
        Err(_) => String::from_utf8_lossy(&request.body).escape_debug().to_string(),
    };
    for line in body.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}
