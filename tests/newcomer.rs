//! The path of `rules/README.md` from an empty folder to a tested, running rule, followed word for word: files are written
//! as the document shows them, commands are run, and the lines that it shows must come in their order.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::support::{PATIENCE, eventually, own_address};

const SECTION: &str = "## From an empty file to a tested, running rule\n";

type Lines = Arc<Mutex<Vec<String>>>;

fn follow(stream: impl AsyncRead + Unpin + Send + 'static, into: &Lines) {
    let into = Arc::clone(into);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            into.lock().unwrap().push(line);
        }
    });
}

fn spawn(command: &str, dir: &Path, said: &Lines) -> Child {
    let binaries = Path::new(env!("CARGO_BIN_EXE_sidehook")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let mut child = Command::new("bash")
        .args(["-c", &format!("exec {command}")])
        .current_dir(dir)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    follow(child.stdout.take().unwrap(), said);
    follow(child.stderr.take().unwrap(), said);
    child
}

/// Waits until these lines came, in this order, after the first `from` lines.
async fn came(wanted: &[&str], from: usize, said: &Lines) {
    eventually("the lines that the document shows", async || {
        let said = said.lock().unwrap();
        let mut rest = said[from..].iter();
        match wanted.iter().find(|line| !rest.any(|said| said.contains(line.trim_end()))) {
            None => Ok(()),
            Some(line) => Err(format!("{line:?} is not among {:#?}", &said[from..])),
        }
    })
    .await;
}

#[tokio::test]
async fn the_path_in_the_readme_leads_to_a_tested_running_rule() {
    let readme = include_str!("../rules/README.md");
    let (_, section) = readme.split_once(SECTION).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    // Fixed ports collide with other tests; an address of one's own does not.
    let address: Ipv4Addr = own_address();
    let section = section.replace("127.0.0.1", &address.to_string());
    let dir = tempfile::tempdir().unwrap();
    let said = Lines::default();
    let (mut background, mut files, mut commands) = (Vec::new(), 0, 0);
    let parts: Vec<&str> = section.split("\n```").collect();
    for pair in parts.chunks_exact(2) {
        let (prose, block) = (pair[0], pair[1]);
        let (kind, text) = block.split_once('\n').unwrap();
        if kind != "console" {
            // A file is named by its first line, or by the last thing in backticks before it.
            let first = text.lines().next().unwrap();
            let named = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "));
            let name = named.or_else(|| prose.rsplit('`').nth(1)).unwrap();
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
            files += 1;
            continue;
        }
        for part in format!("\n{text}").split("\n$ ").skip(1) {
            let mut lines = part.lines();
            let command =
                lines.next().unwrap().replace("sidehook listen", &format!("sidehook listen --addr {address}:9000"));
            let shown: Vec<&str> = lines.collect();
            let from = said.lock().unwrap().len();
            if let Some(command) = command.strip_suffix(" &") {
                background.push(spawn(command, dir.path(), &said));
            } else {
                let mut child = spawn(&command, dir.path(), &said);
                let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
                assert!(status.success(), "{command}: {status}: {:#?}", said.lock().unwrap());
            }
            came(&shown, from, &said).await;
            commands += 1;
        }
    }
    assert_eq!((files, commands), (6, 9), "the whole path was walked");
    for child in &mut background {
        assert!(child.try_wait().unwrap().is_none(), "it still runs");
    }
}
