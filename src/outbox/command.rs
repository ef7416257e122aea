//! What callers ask of the writer and how they are answered. Does nothing with it.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::retry;
use super::settle::Payload;
use super::types::{Batch, CommitError, Filter, KnownWebhook, Options, Receipt, Retried};

/// What callers ask of the writer.
pub(super) enum Command {
    Commit(Batch, Answer<Receipt>),
    Webhooks(Vec<KnownWebhook>, Answer<()>),
    Retry { id: String, payload: Option<Payload>, answer: Answer<Retried> },
    RetrySome { filter: Filter, from: Option<retry::Place>, answer: Answer<retry::Progress> },
    Options(Options),
    Maintain(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, CommitError>>;

/// A command with its place in the queue, which is free again once the writer has taken it.
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// An answer that is due when the transaction is durable.
pub(super) enum Due {
    Commit(Answer<Receipt>, Result<Receipt, CommitError>),
    Webhooks(Answer<()>),
    Retry(Answer<Retried>, Retried),
    RetrySome(Answer<retry::Progress>, retry::Progress),
}

impl Due {
    /// Says it.
    pub(super) fn send(self) {
        // Nobody waits any more where a send fails; what was asked is done all the same.
        match self {
            Self::Commit(to, result) => drop(to.send(result)),
            Self::Webhooks(to) => drop(to.send(Ok(()))),
            Self::Retry(to, retried) => drop(to.send(Ok(retried))),
            Self::RetrySome(to, progress) => drop(to.send(Ok(progress))),
        }
    }

    /// Says that the transaction failed.
    pub(super) fn fail(self, why: &str) {
        let failed = || CommitError::Failed(why.to_owned());
        match self {
            Self::Commit(to, _) => drop(to.send(Err(failed()))),
            Self::Webhooks(to) => drop(to.send(Err(failed()))),
            Self::Retry(to, _) => drop(to.send(Err(failed()))),
            Self::RetrySome(to, _) => drop(to.send(Err(failed()))),
        }
    }
}

/// Answers a command that was not tried.
pub(super) fn refuse(command: Command, why: &str) {
    let failed = || CommitError::Failed(why.to_owned());
    match command {
        Command::Commit(_, to) => drop(to.send(Err(failed()))),
        Command::Webhooks(_, to) => drop(to.send(Err(failed()))),
        Command::Retry { answer, .. } => drop(answer.send(Err(failed()))),
        Command::RetrySome { answer, .. } => drop(answer.send(Err(failed()))),
        Command::Options(_) | Command::Maintain(_) | Command::Close(_) => {}
    }
}
