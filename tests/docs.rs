//! What the documents show is true: their configurations load, their commands exist, their blocks marked `run` run.
//!
//! - ```` ```yaml ```` whose first line is a comment naming a file (`# sidehook.yaml`, `# webhooks/crm.yaml`) is checked by
//!   `sidehook check`, beside the other named files of the same document. Files below `/run/secrets` and variables that it
//!   names are provided.
//! - ```` ```rhai ```` whose first line is `// rules/NAME.rhai` is such a file too.
//! - Lines `sidehook …` (or `cargo run … -- …`) of ```` ```sh ````, with or without `$ ` before them, and lines `$ sidehook …` of
//!   ```` ```console ```` must be commands with flags that exist.
//! - ```` ```sh run ```` is run whole, in a copy of `examples/quickstart`, with sidehook on the path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

use crate::support::signature::SECRET;
use crate::support::{PATIENCE, cli};

struct Block {
    file: PathBuf,
    line: usize,
    info: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// The file's name in the first line's comment.
    fn name(&self, comment: &str, suffix: &str) -> Option<&str> {
        let first = self.text.lines().next()?.strip_prefix(comment)?.trim();
        let name = first.split_whitespace().next()?.trim_end_matches([':', ',']);
        name.ends_with(suffix).then_some(name)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document for users.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    for dir in ["rules", "examples", "src"] {
        gather(&root().join(dir), &mut found);
    }
    found
}

fn gather(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

fn blocks(file: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => {
                open = Some(Block {
                    file: file.to_owned(),
                    line: number + 1,
                    info: info.trim().to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", file.display());
    found
}

/// Everything that a shown configuration takes from its surroundings.
fn provide(text: &str, dir: &Path, variables: &mut BTreeMap<String, String>) -> String {
    let secrets = dir.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    for found in Regex::new(r"/run/secrets/([\w.-]+)").unwrap().captures_iter(text) {
        std::fs::write(secrets.join(&found[1]), SECRET).unwrap();
    }
    // Relative ones are below the config directory.
    for found in Regex::new(r"\{file: ([\w.-][\w./-]*)\}").unwrap().captures_iter(text) {
        let path = dir.join("config").join(&found[1]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, SECRET).unwrap();
    }
    for found in Regex::new(r"\$\{(\w+)|\benv: *(\w+)").unwrap().captures_iter(text) {
        let name = found.get(1).or_else(|| found.get(2)).unwrap().as_str();
        variables.insert(name.to_owned(), SECRET.to_owned());
    }
    text.replace("/run/secrets", secrets.to_str().unwrap())
}

/// The configurations that a document shows, as files by name. A name that comes again begins another one.
fn configurations(document: &Path) -> Vec<BTreeMap<String, Block>> {
    let mut all = vec![BTreeMap::new()];
    for block in blocks(document) {
        let name = block.name("#", ".yaml").or_else(|| block.name("//", ".rhai"));
        let Some(name) = name.filter(|name| !name.starts_with('/') && !name.contains("..")).map(str::to_owned) else {
            continue;
        };
        if all.last().is_some_and(|files| files.contains_key(&name)) {
            all.push(BTreeMap::new());
        }
        if let Some(files) = all.last_mut() {
            files.insert(name, block);
        }
    }
    all.retain(|files| !files.is_empty());
    all
}

#[tokio::test]
async fn configurations_in_documents_load() {
    let mut checked = 0;
    for files in documents().iter().flat_map(|d| configurations(d)) {
        let dir = tempfile::tempdir().unwrap();
        let mut variables = BTreeMap::new();
        let mut places = Vec::new();
        for (name, block) in &files {
            let path = dir.path().join("config").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, provide(&block.text, dir.path(), &mut variables)).unwrap();
            places.push(block.place());
        }
        let config = dir.path().join("config");
        std::fs::create_dir_all(config.join("rules")).unwrap();
        if !config.join("sidehook.yaml").exists() {
            std::fs::write(config.join("sidehook.yaml"), "").unwrap();
        }
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidehook"));
        command.arg("check").arg("--config").arg(&config).envs(&variables).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{places:?}: {said}");
        checked += places.len();
    }
    assert!(checked > 0, "no document shows a configuration with its file's name");
}

/// The arguments after `sidehook` of a shown command, if it is one.
fn arguments(line: &str) -> Option<Vec<String>> {
    let command = line.trim();
    let command = command.strip_prefix("$ ").unwrap_or(command);
    let command = command.split('#').next()?.replace("&&", "|");
    let mut parts = command.split(['|', ';']).map(str::trim);
    let is_ours =
        |part: &&str| part.split_whitespace().next().is_some_and(|w| w == "sidehook" || w.ends_with("/sidehook"));
    let command = parts.find(|part| is_ours(part) || part.starts_with("cargo run"))?;
    let command = command.split(['&', '>', '<']).next()?;
    let words: Vec<_> = command.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned()).collect();
    let start = words.iter().position(|w| w == "sidehook" || w.ends_with("/sidehook"));
    let start =
        start.or_else(|| words.first().filter(|w| *w == "cargo").and_then(|_| words.iter().position(|w| w == "--")))?;
    Some(words[start + 1..].to_vec())
}

#[tokio::test]
async fn commands_in_documents_exist() {
    let mut checked = 0;
    for block in documents().iter().flat_map(|d| blocks(d)) {
        if !matches!(block.info.split(' ').next(), Some("sh" | "console" | "bash")) {
            continue;
        }
        let joined = block.text.replace("\\\n", " ");
        let prompted = block.info.starts_with("console");
        for mut words in joined.lines().filter(|line| !prompted || line.trim().starts_with("$ ")).filter_map(arguments)
        {
            let shown = words.join(" ");
            // Flags are parsed before help is printed, so an unknown one is a usage error.
            words.push("--help".into());
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let output = cli(&words).await;
            assert_eq!(output.code, 0, "{}: sidehook {shown}: {}", block.place(), output.stderr);
            checked += 1;
        }
    }
    assert!(checked > 0, "no document shows a command");
}

#[tokio::test]
async fn blocks_marked_run_do_what_they_show() {
    for block in documents().iter().flat_map(|d| blocks(d)).filter(|b| b.info == "sh run") {
        let dir = tempfile::tempdir().unwrap();
        copy(&root().join("examples/quickstart"), dir.path());
        let script: String = block.text.lines().map(|l| format!("{}\n", l.strip_prefix("$ ").unwrap_or(l))).collect();
        let binaries = Path::new(env!("CARGO_BIN_EXE_sidehook")).parent().unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let mut command = tokio::process::Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(dir.path()).env("PATH", path).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.expect("it ends").unwrap();
        assert!(output.status.success(), "{}: {}", block.place(), String::from_utf8_lossy(&output.stderr));
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#\s]+)").unwrap();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap_or_else(|e| panic!("{}: {e}", document.display()));
        for found in link.captures_iter(&text).filter(|f| !f[1].contains("://") && !f[1].starts_with("mailto:")) {
            let target = document.parent().unwrap().join(&found[1]);
            assert!(target.exists(), "{}: {} is not there", document.display(), &found[1]);
        }
    }
}

#[test]
fn shown_commands_are_recognized() {
    for (line, expected) in [
        ("$ sidehook check --config x", Some("check --config x")),
        ("$ cargo run --release -- demo", Some("demo")),
        ("$ cat e.json | sidehook send -", Some("send -")),
        ("$ ./target/release/sidehook run &", Some("run")),
        ("mkdir x && sidehook secret new > x/y", Some("secret new")),
        ("$ curl localhost", None),
        ("cargo test", None),
        ("# sidehook", None),
    ] {
        assert_eq!(arguments(line).map(|words| words.join(" ")).as_deref(), expected, "{line}");
    }
}
