//! Runs the commands of the binary.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::PATIENCE;

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts the exit code and hands the output on.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: not JSON: {}", self.stdout))
    }
}

/// Runs `sidehook ARGS…`.
pub async fn cli(args: &[&str]) -> Output {
    cli_in(Path::new("."), args, "").await
}

/// Runs `sidehook ARGS…` in a directory with this standard input.
pub async fn cli_in(dir: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidehook"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sidehook starts");
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_owned();
    // A command that reads nothing closes the pipe; that is its right.
    tokio::spawn(async move { drop(input.write_all(stdin.as_bytes()).await) });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("sidehook {args:?} did not end within {PATIENCE:?}")).unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
