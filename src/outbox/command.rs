//! What callers ask of the writer and how they are answered. Does nothing with it.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::read::Closed;
use super::retry;
use super::settle::Payload;
use super::types::{Batch, CommitError, KnownWebhook, Options, Receipt, Retried, Stood};
use super::views::Filter;

/// What callers ask of the writer.
pub(super) enum Command {
    Commit(Batch, Answer<Receipt>),
    Webhooks(Vec<KnownWebhook>, Answer<()>),
    Pause {
        webhook: String,
        paused: bool,
        answer: Answer<Stood>,
    },
    Retry {
        id: String,
        payload: Option<Payload>,
        answer: Answer<Retried>,
    },
    RetrySome {
        filter: Filter,
        from: Option<retry::Place>,
        answer: Answer<retry::Progress>,
    },
    /// Deliveries that were found to be unreadable; nobody waits for an answer.
    Unreadable(Vec<Closed>),
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

/// What a command came to, told when the transaction is durable.
pub(super) enum Reply {
    Commit(Result<Receipt, CommitError>),
    Webhooks,
    Pause(Stood),
    Retry(Retried),
    RetrySome(retry::Progress),
    /// For what is not done in a transaction.
    Nothing,
}

/// Answers a command with what it came to. Nobody waits any more where a send fails; what was asked is done all the same.
pub(super) fn answer(command: Command, reply: Reply) {
    match (command, reply) {
        (Command::Commit(_, to), Reply::Commit(result)) => drop(to.send(result)),
        (Command::Webhooks(_, to), Reply::Webhooks) => drop(to.send(Ok(()))),
        (Command::Pause { answer, .. }, Reply::Pause(stood)) => drop(answer.send(Ok(stood))),
        (Command::Retry { answer, .. }, Reply::Retry(retried)) => drop(answer.send(Ok(retried))),
        (Command::RetrySome { answer, .. }, Reply::RetrySome(progress)) => drop(answer.send(Ok(progress))),
        // A reply is made from its command, so no other pair is.
        _ => {}
    }
}

/// Answers a command of which nothing is stored.
pub(super) fn refuse(command: Command, why: &str) {
    let failed = || CommitError::Failed(why.to_owned());
    match command {
        Command::Commit(_, to) => drop(to.send(Err(failed()))),
        Command::Webhooks(_, to) => drop(to.send(Err(failed()))),
        Command::Pause { answer, .. } => drop(answer.send(Err(failed()))),
        Command::Retry { answer, .. } => drop(answer.send(Err(failed()))),
        Command::RetrySome { answer, .. } => drop(answer.send(Err(failed()))),
        // What is unreadable is found again.
        Command::Unreadable(_) | Command::Options(_) | Command::Maintain(_) | Command::Close(_) => {}
    }
}
