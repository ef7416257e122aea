//! The actor: owns every lane, selects over all that may happen, and after each event starts whatever may start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};

use super::attempt::{Called, Parcel, Prepared};
use super::board::{Board, Command, Handle};
use super::lane::{Lane, Refill};
use super::settler::{self, Settle, Settled};
use crate::clock::{Clock, Entropy, Timestamp};
use crate::config::{Generation, Webhook};
use crate::delivery::{BreakerState, Outcome};
use crate::event::own::Troubles;
use crate::limits;
use crate::net::{Destination, Guard, Way};
use crate::outbox::{Health, Outbox, OutboxError, Ready, Standing};
use crate::shutdown::Shutdown;
use crate::telemetry::dispatch as facts;

/// Sends what the outbox owes. Made by [`Dispatcher::new`], driven by [`Dispatcher::run`].
pub struct Dispatcher {
    outbox: Outbox,
    /// Taken as early as can be: the outbox announces nothing before.
    ready: Option<mpsc::Receiver<Ready>>,
    clock: Clock,
    entropy: Entropy,
    shutdown: Shutdown,
    generations: watch::Receiver<Arc<Generation>>,
    concurrency: usize,
    guard: Arc<Guard>,
    lanes: BTreeMap<Arc<str>, Lane>,
    /// Attempts in flight, each with what is needed should its task break.
    calls: JoinSet<Called>,
    flights: HashMap<Id, Flight>,
    refills: JoinSet<(Arc<str>, Result<Refill, OutboxError>)>,
    settler: Settler,
    /// Results that are not durable yet.
    unsettled: usize,
    /// When all lanes were last made to ask the store.
    looked_at: Timestamp,
    store_works: bool,
    commands: mpsc::Receiver<Command>,
    /// Kept so that the channel stays open when nobody else holds a handle.
    handle: Handle,
    /// Counts starts and questions, for taking turns.
    turn: u64,
    troubles: Troubles,
}

struct Settler {
    results: mpsc::UnboundedSender<Settle>,
    settled: mpsc::UnboundedReceiver<Vec<Settled>>,
    task: JoinHandle<()>,
}

struct Flight {
    webhook: Arc<Webhook>,
    parcel: Parcel,
    at: Timestamp,
    probe: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Attempts that were cut off; their deliveries are sent again after the next start.
    pub cut_off: usize,
    /// Results that could not be stored; the same.
    pub unsettled: usize,
}

/// What the actor selects over.
enum Event {
    Ready(usize),
    Called(Result<(Id, Called), JoinError>),
    Settled(Vec<Settled>),
    Refilled(Arc<str>, Result<Refill, OutboxError>),
    Generation,
    Health,
    LeftOut,
    Command(Command),
    Woken,
    Draining,
    Abort,
}

impl Dispatcher {
    /// Must be called inside a runtime: it starts the task that stores results.
    #[must_use]
    pub fn new(
        outbox: Outbox,
        generations: watch::Receiver<Arc<Generation>>,
        clock: Clock,
        entropy: Entropy,
        shutdown: Shutdown,
    ) -> Self {
        let (results, results_out) = mpsc::unbounded_channel();
        let (settled_in, settled) = mpsc::unbounded_channel();
        let task = tokio::spawn(settler::run(outbox.clone(), results_out, settled_in, shutdown.abort.clone()));
        let (commands_in, commands) = mpsc::channel(limits::DISPATCH_COMMANDS);
        let guard = Arc::new(Guard::new(&generations.borrow().settings.egress));
        let mut dispatcher = Self {
            ready: outbox.ready(),
            outbox,
            clock,
            entropy,
            shutdown,
            generations,
            concurrency: 1,
            guard,
            lanes: BTreeMap::new(),
            calls: JoinSet::new(),
            flights: HashMap::new(),
            refills: JoinSet::new(),
            settler: Settler { results, settled, task },
            unsettled: 0,
            looked_at: Timestamp::default(),
            store_works: true,
            commands,
            handle: Handle { commands: commands_in, board: Board::default() },
            turn: 0,
            troubles: Troubles::default(),
        };
        dispatcher.take_generation();
        dispatcher
    }

    /// Tells what goes wrong to these.
    #[must_use]
    pub fn with_troubles(mut self, troubles: Troubles) -> Self {
        self.troubles = troubles;
        self
    }

    /// For waking it and for looking at it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `draining`, then lets attempts in flight finish and their results be stored, until `abort`.
    pub async fn run(mut self) -> Summary {
        let mut ready = self.ready.take();
        let mut health = self.outbox.health();
        self.store_works = !matches!(*health.borrow_and_update(), Health::Failed(_));
        let mut arrived = Vec::with_capacity(limits::READY_DELIVERIES);
        let mut draining = false;
        loop {
            if draining && self.flights.is_empty() {
                break;
            }
            let now = self.clock.now();
            if !draining {
                self.look_around(now);
                self.refill(now);
                self.pump(now);
            }
            let sleep = self.sleep(now);
            let event = tokio::select! {
                () = self.shutdown.abort.cancelled() => Event::Abort,
                () = self.shutdown.draining.cancelled(), if !draining => Event::Draining,
                n = receive(&mut ready, &mut arrived), if ready.is_some() => Event::Ready(n),
                Some(called) = self.calls.join_next_with_id() => Event::Called(called),
                Some(settled) = self.settler.settled.recv() => Event::Settled(settled),
                Some(Ok((webhook, refill))) = self.refills.join_next() => Event::Refilled(webhook, refill),
                Ok(()) = self.generations.changed() => Event::Generation,
                Ok(()) = health.changed() => Event::Health,
                () = self.outbox.left_out() => Event::LeftOut,
                Some(command) = self.commands.recv() => Event::Command(command),
                () = tokio::time::sleep(sleep) => Event::Woken,
            };
            match event {
                Event::Ready(0) => ready = None,
                Event::Ready(_) => self.arrived(&mut arrived),
                Event::Called(called) => self.came_back(called),
                Event::Settled(settled) => {
                    // A delivery that was read from the store may still be announced in the channel. It was put there
                    // before its result could become durable, so it is recognised as long as the channel is read first.
                    if let Some(receiver) = &mut ready {
                        while let Ok(delivery) = receiver.try_recv() {
                            arrived.push(delivery);
                        }
                        self.arrived(&mut arrived);
                    }
                    self.settled(settled);
                }
                Event::Refilled(webhook, refill) => self.refilled(&webhook, refill),
                Event::Generation => self.take_generation(),
                Event::Health => self.store_works = !matches!(*health.borrow_and_update(), Health::Failed(_)),
                Event::LeftOut => self.suspect_backlog(self.clock.now()),
                Event::Command(command) => self.obey(command),
                Event::Woken => {}
                Event::Draining => draining = true,
                Event::Abort => break,
            }
        }
        self.finish().await
    }

    /// Lets results become durable, as far as there is time.
    async fn finish(self) -> Summary {
        let Self { mut calls, flights, settler, mut unsettled, shutdown, .. } = self;
        calls.abort_all();
        let Settler { results, mut settled, mut task } = settler;
        drop(results);
        tokio::select! {
            _ = &mut task => {}
            () = shutdown.abort.cancelled() => task.abort(),
        }
        while let Ok(done) = settled.try_recv() {
            unsettled = unsettled.saturating_sub(done.len());
        }
        Summary { cut_off: flights.len(), unsettled }
    }

    fn take_generation(&mut self) {
        let generation = self.generations.borrow_and_update().clone();
        let now = self.clock.now();
        self.concurrency = generation.settings.concurrency.max(1);
        let guard = Guard::new(&generation.settings.egress);
        if guard != *self.guard {
            // Open connections were allowed by rules that are no longer in force.
            self.guard = Arc::new(guard);
            self.lanes.values_mut().for_each(|lane| lane.way = None);
        }
        for (name, webhook) in &generation.webhooks {
            let lane = self.lanes.entry(name.clone()).or_insert_with(|| {
                facts::BreakerGauge { webhook: name, open: false }.emit();
                Lane::default()
            });
            if lane.set_webhook(webhook.enabled.then(|| webhook.clone()), now) {
                facts::BreakerGauge { webhook: name, open: false }.emit();
                self.handle.board.reset(name);
            }
        }
        self.lanes.retain(|name, lane| {
            if generation.webhooks.contains_key(name) {
                return true;
            }
            let _ = lane.set_webhook(None, now);
            let stays = !lane.is_idle();
            if !stays {
                self.handle.board.remove(name);
            }
            stays
        });
    }

    fn arrived(&mut self, arrived: &mut Vec<Ready>) {
        let mut space = self.space();
        for delivery in arrived.drain(..) {
            let Some(lane) = self.lanes.get_mut(&delivery.webhook) else { continue };
            let before = lane.queued_bytes();
            lane.offer(delivery, space);
            space = space.saturating_sub(lane.queued_bytes() - before);
        }
    }

    /// Bytes of payloads that may still be queued over all lanes.
    fn space(&self) -> usize {
        limits::READY_TOTAL_BYTES.saturating_sub(self.lanes.values().map(Lane::queued_bytes).sum())
    }

    /// Asks the store for more where it may have more; a few questions at a time, since each answer may be large.
    fn refill(&mut self, now: Timestamp) {
        while self.refills.len() < limits::REFILLS {
            let wanting = self.lanes.iter_mut().filter(|(_, lane)| lane.wants_refill(now));
            let Some((name, lane)) = wanting.min_by_key(|(_, lane)| lane.last_asked) else { return };
            self.turn += 1;
            let known = lane.ask(self.turn);
            let (outbox, name) = (self.outbox.clone(), name.clone());
            self.refills.spawn(async move {
                let refill = async {
                    let due = outbox.due_beyond(&name, now, limits::READY_DELIVERIES, &known).await?;
                    let next = outbox.next_due(&name, now).await?;
                    Ok(Refill { due, next })
                };
                let refill = refill.await;
                (name, refill)
            });
        }
    }

    fn refilled(&mut self, webhook: &Arc<str>, refill: Result<Refill, OutboxError>) {
        let (now, space) = (self.clock.now(), self.space());
        let Some(lane) = self.lanes.get_mut(webhook) else { return };
        match refill {
            Ok(refill) => lane.refilled(refill, space),
            Err(error) => {
                facts::RefillFailed { webhook, error: &error.to_string() }.emit();
                lane.refill_failed(now.plus(Duration::from_secs(1)));
            }
        }
    }

    /// Starts what may start: the lowest `priority` first, then who has the least in flight, then who waited longest.
    /// An eighth of all places is kept for webhooks that have nothing in flight, so that slow destinations which hold
    /// all they can get never shut the others out.
    fn pump(&mut self, now: Timestamp) {
        while self.store_works && self.unsettled < limits::UNSETTLED_RESULTS {
            let free = self.concurrency.saturating_sub(self.flights.len());
            if free == 0 {
                return;
            }
            let idle = self.lanes.values().filter(|lane| lane.active() && lane.in_flight == 0).count();
            let kept = if self.concurrency > 1 { idle.min((self.concurrency / 8).max(1)) } else { 0 };
            let candidates = self.lanes.iter_mut().filter_map(|(_, lane)| {
                let webhook = lane.webhook.clone()?;
                let may = lane.active() && lane.has_work() && !lane.held_back(now);
                (may && (lane.in_flight == 0 || free > kept)).then_some((webhook, lane))
            });
            let first = candidates.min_by_key(|(webhook, lane)| (webhook.priority, lane.in_flight, lane.last_start));
            let Some((webhook, lane)) = first else { return };
            let Some((delivery, probe)) = lane.start(now) else { continue };
            self.turn += 1;
            lane.last_start = self.turn;
            let way = way(lane, &webhook, &self.guard, &self.clock);
            let flight = Flight { webhook: webhook.clone(), parcel: Parcel::of(&delivery), at: now, probe };
            let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
            let task = self
                .calls
                .spawn(async move { Prepared::new(webhook, delivery, &clock, &entropy).call(way, &clock).await });
            self.flights.insert(task.id(), flight);
        }
    }

    fn came_back(&mut self, called: Result<(Id, Called), JoinError>) {
        let (id, called) = match called {
            Ok((id, called)) => (id, Some(called)),
            Err(error) => (error.id(), None),
        };
        let Some(Flight { webhook, parcel, at, probe }) = self.flights.remove(&id) else { return };
        let called = called.unwrap_or_else(|| Called::lost(webhook.clone(), parcel, at));
        let now = self.clock.now();
        let now_in_force = self.lanes.get(&webhook.name).and_then(|lane| lane.webhook.as_ref());
        let current = now_in_force.is_none_or(|now| now.file_hash == webhook.file_hash);
        let handled = called.handle(current, now, self.entropy.unit());
        let mut news = true;
        if let Some(lane) = self.lanes.get_mut(&webhook.name) {
            // What another destination did says nothing of this one.
            let outcome = handled.outcome.filter(|_| lane.is_for(&webhook.url));
            let moved = lane.came_back(outcome, handled.retry_after, probe, now);
            if let Some(state) = moved {
                facts::BreakerMoved { webhook: &webhook.name, open: state == BreakerState::Open }.emit();
            }
            if let Some(until) = lane.slowed.take() {
                facts::SlowedDown { webhook: &webhook.name, until: &until }.emit();
            }
            if let Some(Standing::Disabled { file_hash, .. }) = &handled.standing
                && lane.webhook.as_ref().is_some_and(|current| current.file_hash == *file_hash)
            {
                // Of several that meet a 410 at once one is told.
                news = lane.active();
                lane.set_gone(file_hash.clone());
            }
            let ok = handled.outcome.is_some_and(Outcome::is_success);
            self.handle.board.came_back(&webhook.name, &lane.breaker, lane.in_flight, ok, now);
        }
        if let Some(trouble) = handled.trouble.filter(|_| news) {
            self.troubles.tell(trouble);
        }
        self.unsettled += 1;
        let settle =
            Settle { webhook: webhook.name.clone(), settlement: handled.settlement, standing: handled.standing };
        // The settler ends only after this actor does, or when the outbox is closed and nothing can be stored.
        let _ = self.settler.results.send(settle);
    }

    fn settled(&mut self, settled: Vec<Settled>) {
        for Settled { webhook, row, retry } in settled {
            self.unsettled = self.unsettled.saturating_sub(1);
            let Some(lane) = self.lanes.get_mut(&webhook) else { continue };
            lane.settled(row, retry);
            if lane.is_idle() && !self.generations.borrow().webhooks.contains_key(&webhook) {
                self.lanes.remove(&webhook);
                self.handle.board.remove(&webhook);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Wake(Some(webhook)) => {
                if let Some(lane) = self.lanes.get_mut(&webhook) {
                    lane.wake();
                }
            }
            Command::Wake(None) => self.lanes.values_mut().for_each(Lane::wake),
            Command::Pause(webhook, paused, done) => {
                if let Some(lane) = self.lanes.get_mut(&webhook) {
                    lane.pause(paused);
                }
                // Whoever asked may have gone away.
                let _ = done.send(());
            }
        }
    }

    /// Once in a while the store is asked whatever was announced.
    fn look_around(&mut self, now: Timestamp) {
        // A clock that was set back must not put this off.
        self.looked_at = self.looked_at.min(now);
        if now.since(self.looked_at) >= limits::REFILL_EVERY {
            self.suspect_backlog(now);
        }
    }

    fn suspect_backlog(&mut self, now: Timestamp) {
        self.looked_at = now;
        self.lanes.values_mut().for_each(Lane::suspect_backlog);
    }

    fn sleep(&self, now: Timestamp) -> Duration {
        // What is due already waits for an event, not for time.
        let next = self.lanes.values().filter_map(|lane| lane.wakes_at(now)).min();
        next.map_or(limits::REFILL_EVERY, |at| at.since(now).min(limits::REFILL_EVERY))
    }
}

/// Zero when the channel is closed.
async fn receive(ready: &mut Option<mpsc::Receiver<Ready>>, into: &mut Vec<Ready>) -> usize {
    match ready {
        Some(receiver) => receiver.recv_many(into, limits::READY_DELIVERIES).await,
        None => std::future::pending().await,
    }
}

/// The lane's way to its destination; made anew when the TLS or auth settings or its concurrency are others. Its
/// connections and its token outlive generations.
fn way(lane: &mut Lane, webhook: &Webhook, guard: &Arc<Guard>, clock: &Clock) -> Result<Way, String> {
    let auth = webhook.auth.as_ref();
    let to = Destination { url: &webhook.url, tls: &webhook.tls, auth, at_once: webhook.concurrency };
    let identity = to.identity();
    if let Some((known, way)) = &lane.way
        && *known == identity
    {
        return way.clone();
    }
    let way = Way::new(to, guard, clock).map_err(|error| error.to_string());
    lane.way = Some((identity, way.clone()));
    way
}
