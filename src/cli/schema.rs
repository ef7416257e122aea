//! `sidehook schema`: prints the JSON Schema that editors complete and check configuration files with.

use std::io::{self, Write};
use std::path::Path;

use crate::config::schema;

/// Arguments of `schema`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidehook schema > sidehook.schema.json\n  sidehook schema webhook > webhook.schema.json\n\n\
    An editor with YAML support reads it from the first line of a file:\n  # yaml-language-server: $schema=../webhook.schema.json"
)]
pub struct Args {
    /// Which file the schema is for.
    #[arg(value_enum, default_value_t = Of::Sidehook)]
    of: Of,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Of {
    /// sidehook.yaml
    Sidehook,
    /// A file in webhooks/
    Webhook,
}

/// Runs the command.
#[expect(clippy::needless_pass_by_value, reason = "every command takes its arguments whole")]
pub fn run(args: Args, _config: &Path) -> anyhow::Result<u8> {
    let schema = match args.of {
        Of::Sidehook => schema::sidehook(),
        Of::Webhook => schema::webhook(),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{schema:#}")?;
    Ok(0)
}
