//! The child process: its start, its signals and its end. Reads nothing of what it says.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

use crate::config::model::Exec;

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Nobody has it.
    #[error("command: there is no program {0:?} in PATH; install it, or write its whole path")]
    NotInPath(String),
    /// The path leads nowhere.
    #[error("command: there is no program {0:?}; mend the path, or write the name alone to have it looked up in PATH")]
    NotThere(String),
    /// It is there, but what its first line names is not.
    #[error("command: {0:?} is there, but the interpreter that its first line names is not")]
    NoInterpreter(String),
    /// Not executable.
    #[error("command: {0:?} may not be executed; is it a program, and executable for sidehook's user (chmod +x)?")]
    Permission(String),
    /// `cwd` is not there.
    #[error("cwd: {} is no directory; make it, or leave `cwd` out", .0.display())]
    Directory(PathBuf),
    /// Anything else.
    #[error("command: {program:?} could not be started: {source}")]
    Io {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Exit {
    /// As a shell tells it: the code, or 128 + signal.
    #[must_use]
    pub fn status(self) -> u8 {
        let status = self.code.or(self.signal.map(|signal| 128 + signal)).unwrap_or(1);
        u8::try_from(status & 0xFF).unwrap_or(1)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// A signal that is handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// SIGTERM
    Term,
    /// SIGINT
    Int,
}

/// What others may do with a running child.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
}

/// How far a child's end has come.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    exit: Option<Exit>,
    /// All that it said is stored, or lost.
    stored: bool,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Forward(Forward),
    Kill,
}

impl Handle {
    /// Hands a signal on. At a terminal SIGINT is not: there the child got it from the terminal.
    pub fn forward(&self, signal: Forward) {
        // A child that has ended needs none.
        let _ = self.orders.send(Order::Forward(signal));
    }

    /// Ends it and what it started the hard way.
    pub fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    /// Waits until it has ended.
    pub async fn exited(&self) {
        // One that nobody runs any more has ended.
        let _ = self.state.clone().wait_for(|state| state.exit.is_some()).await;
    }

    /// Waits until it has ended and all that it said is stored.
    pub async fn ended(&self) -> Option<Exit> {
        let mut state = self.state.clone();
        state.wait_for(|state| state.stored).await.ok().and_then(|state| state.exit)
    }

    /// How it ended, if it has, be everything that it said stored or not.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.state.borrow().exit
    }
}

/// A child that runs. Dropping it kills it.
pub(super) struct Running {
    child: Child,
    orders: mpsc::UnboundedReceiver<Order>,
    state: watch::Sender<State>,
    /// In a process group of its own.
    apart: bool,
}

/// Starts the program.
///
/// It gets a process group of its own, so that what a terminal or a supervisor sends to sidehook's whole group reaches it
/// once, through sidehook, and so that in the end nothing is left of it. Where standard input is a terminal it stays in
/// sidehook's group, since only that may read from the terminal.
pub(super) fn start(exec: &Exec) -> Result<(Running, Handle), ExecError> {
    let apart = !io::stdin().is_terminal();
    let mut command = Command::new(&exec.command[0]);
    command.args(&exec.command[1..]).envs(exec.env.iter().map(|(name, value)| (name, value.expose())));
    command.stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    if let Some(cwd) = &exec.cwd {
        if !cwd.is_dir() {
            return Err(ExecError::Directory(cwd.clone()));
        }
        command.current_dir(cwd);
    }
    if apart {
        command.process_group(0);
    }
    let child = command.spawn().map_err(|error| explain(&exec.command[0], error))?;
    let (orders, received) = mpsc::unbounded_channel();
    let (state, watched) = watch::channel(State::default());
    Ok((Running { child, orders: received, state, apart }, Handle { orders, state: watched }))
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub(super) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Carries out orders until the child has ended, and tells that.
    pub(super) async fn end(&mut self) -> Exit {
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                Some(order) = self.orders.recv() => self.obey(order),
            }
        };
        let exit = match status {
            Ok(status) => status.into(),
            Err(error) => {
                tracing::error!(%error, "the assistant's end could not be waited for");
                Exit { code: None, signal: None }
            }
        };
        self.state.send_modify(|state| state.exit = Some(exit));
        exit
    }

    fn obey(&self, order: Order) {
        // Reaped already: its number may be another's by now.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return };
        let sent = match order {
            Order::Forward(Forward::Int) if !self.apart => Ok(()),
            Order::Forward(Forward::Int) => kill_process(pid, Signal::INT),
            Order::Forward(Forward::Term) => kill_process(pid, Signal::TERM),
            Order::Kill if self.apart => kill_process_group(pid, Signal::KILL),
            Order::Kill => kill_process(pid, Signal::KILL),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, ?order, "a signal could not be handed on to the assistant");
        }
    }

    /// Tells that all that it said is stored.
    pub(super) fn stored(&self) {
        self.state.send_modify(|state| state.stored = true);
    }
}

fn explain(program: &str, source: io::Error) -> ExecError {
    let named = program.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => ExecError::NotInPath(named),
        io::ErrorKind::NotFound if Path::new(program).exists() => ExecError::NoInterpreter(named),
        io::ErrorKind::NotFound => ExecError::NotThere(named),
        io::ErrorKind::PermissionDenied => ExecError::Permission(named),
        _ => ExecError::Io { program: named, source },
    }
}
