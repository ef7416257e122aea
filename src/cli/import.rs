//! `sidehook import rapida FILE`: webhook definitions of another product as webhook files. Sends nothing and needs no running
//! sidehook.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::{exit, print};
use crate::config::rapida::{self, Imported};
use crate::event::Json;
use crate::limits;

/// Arguments of `sidehook import`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sidehook import rapida webhooks.json --write")]
pub struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// Webhook definitions of a Rapida assistant: one, an array, or an answer of its API.
    #[command(
        after_help = "Examples:\n  sidehook import rapida webhook.json > webhooks/crm.yaml\n  sidehook import rapida webhooks.json --write\n\n\
        What has no counterpart is said in the files, as comments.\nExit code 0 when every definition was taken over; else 1, and nothing is written."
    )]
    Rapida {
        /// A JSON file; `-` is standard input.
        file: PathBuf,
        /// Writes the files into webhooks/ of the config directory instead of printing them; none that is there is replaced.
        #[arg(long)]
        write: bool,
    },
}

/// Reads the file and prints or writes what it comes to.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let From::Rapida { file, write } = &args.from;
    let json = Json::parse(read(file)?).with_context(|| format!("{} is not JSON", file.display()))?;
    let webhooks = match rapida::import(&json) {
        Ok(webhooks) => webhooks,
        Err(errors) => {
            for error in &errors {
                complain!("{}: {error}", file.display());
            }
            let s = if errors.len() == 1 { "" } else { "s" };
            complain!("sidehook: {} problem{s}, nothing was taken over", errors.len());
            return Ok(exit::FAILED);
        }
    };
    if *write {
        write_all(&webhooks, config)?;
    } else {
        print(&shown(&webhooks))?;
    }
    for webhook in &webhooks {
        for note in &webhook.notes {
            complain!("sidehook: note: {}: {note}", webhook.name);
        }
    }
    Ok(exit::OK)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let most = limits::CONFIG_FILE_BYTES + 1;
    if file == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes).context("standard input")?;
    } else {
        let open = std::fs::File::open(file).with_context(|| file.display().to_string())?;
        open.take(most).read_to_end(&mut bytes).with_context(|| file.display().to_string())?;
    }
    if bytes.len() as u64 == most {
        bail!("{} is larger than {} bytes", file.display(), limits::CONFIG_FILE_BYTES);
    }
    Ok(bytes)
}

/// One file as it is; several as YAML documents, each with its name.
fn shown(webhooks: &[Imported]) -> String {
    if let [one] = webhooks {
        return one.yaml.clone();
    }
    let shown: Vec<String> =
        webhooks.iter().map(|webhook| format!("---\n# webhooks/{}.yaml\n{}", webhook.name, webhook.yaml)).collect();
    shown.concat()
}

/// All of them or none: a name that is taken stops before anything is written.
fn write_all(webhooks: &[Imported], config: &Path) -> anyhow::Result<()> {
    if !config.is_dir() {
        bail!("{} is no config directory; name one with --config DIR", config.display());
    }
    let dir = config.join("webhooks");
    let files: Vec<(PathBuf, &Imported)> =
        webhooks.iter().map(|webhook| (dir.join(format!("{}.yaml", webhook.name)), webhook)).collect();
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        bail!("{} is there already; move it away, or print the files without --write", path.display());
    }
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    for (path, webhook) in files {
        let mut file = std::fs::File::create_new(&path).with_context(|| path.display().to_string())?;
        file.write_all(webhook.yaml.as_bytes()).with_context(|| path.display().to_string())?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}
