//! `sidehook schema`: prints the JSON Schema that editors complete and check configuration files with.

use super::{exit, print};
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
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let schema = match args.of {
        Of::Sidehook => schema::sidehook(),
        Of::Webhook => schema::webhook(),
    };
    print(&format!("{schema:#}\n"))?;
    Ok(exit::OK)
}
