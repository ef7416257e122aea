//! The sandbox: a Rhai engine with every limit set explicitly (Rhai's defaults differ between debug and release),
//! and the state of the call that runs on this thread. What an engine may do is decided here and nowhere else.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicBlobPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage,
    BasicMathPackage, BasicStringPackage, BitFieldPackage, LanguageCorePackage, LogicPackage, MoreStringPackage,
    Package,
};
use rhai::{Dynamic, Engine, EvalAltResult, LexError, OptimizationLevel, Position, Token};

use super::{ScriptLimits, host, view};
use crate::clock::{Clock, Timestamp};
use crate::limits;

/// An operation counts little time, a look at the clock some: look every so many operations.
const CLOCK_EVERY: u64 = 8;

/// Tokens with which a running script is ended.
pub(super) const TOO_LONG: &str = "timeout";
pub(super) const TOO_MUCH: &str = "operations";
pub(super) const TOO_LARGE: &str = "size";

/// What host functions may know of the event in hand.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub id: Arc<str>,
    pub arrived: Timestamp,
}

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
    static ENDED: Cell<Option<&'static str>> = const { Cell::new(None) };
    static TOOK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static UUIDS: Cell<u64> = const { Cell::new(0) };
    static FACTS: RefCell<Option<Facts>> = const { RefCell::new(None) };
    static LOG: RefCell<Log> = const { RefCell::new(Log::new()) };
    static MODE: Cell<Mode> = const { Cell::new(Mode::Service) };
    static SPOKE: Cell<bool> = const { Cell::new(false) };
    static MOST: Cell<u64> = const { Cell::new(0) };
}

/// What an evaluation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// To decide an event.
    Service,
    /// The same, on a thread that others wait for, within a small budget. It counts only where it ends well within that
    /// and has nothing to say; otherwise it is as if it had not been.
    Quick,
    /// A preview, a test or a canary: it says nothing of the rule in service, so it is in no metric and no log, and
    /// neither suspends a rule nor minds that one is suspended.
    Rehearsal,
}

/// Lines of the call in hand.
struct Log {
    lines: Vec<String>,
    bytes: usize,
    dropped: usize,
}

impl Log {
    const fn new() -> Self {
        Self { lines: Vec::new(), bytes: 0, dropped: 0 }
    }
}

/// One evaluation on this thread: what host functions see, from `begin` until this is dropped. Nothing of it is left
/// for the next one, whatever happens in between.
pub(super) struct Call {
    /// What it is for.
    pub mode: Mode,
}

#[expect(clippy::unused_self, reason = "the thread's state belongs to the one call that is in hand")]
impl Call {
    pub fn begin(facts: Option<Facts>, mode: Mode) -> Self {
        MODE.set(mode);
        SPOKE.set(false);
        OPERATIONS.set(0);
        UUIDS.set(0);
        DEADLINE.set(None);
        FACTS.set(facts);
        LOG.set(Log::new());
        Self { mode }
    }

    /// Starts the clock of one function: operations and time begin anew.
    pub fn arm(&self, now: Instant, limits: &ScriptLimits) {
        let (time, operations) = match self.mode {
            Mode::Quick => (limits::QUICK_RULE_TIME, limits.operations.min(limits::QUICK_RULE_OPERATIONS)),
            Mode::Service | Mode::Rehearsal => (limits.time, limits.operations),
        };
        MOST.set(operations);
        OPERATIONS.set(0);
        ENDED.set(None);
        TOOK.set(Duration::ZERO);
        DEADLINE.set(now.checked_add(time));
    }

    /// Stops the clock that [`Call::arm`] started.
    pub fn disarm(&self, took: Duration) {
        DEADLINE.set(None);
        TOOK.set(took);
    }

    /// Why the function that ran last was ended, even where the script did not pass the error on.
    pub fn ended(&self) -> Result<(), Box<EvalAltResult>> {
        match ENDED.get() {
            Some(token) => Err(EvalAltResult::ErrorTerminated(Dynamic::from(token), Position::NONE).into()),
            None => Ok(()),
        }
    }

    /// Whether the function that just returned kept to its time. A quick call that did not is done all the same.
    pub fn in_time(&self, now: Instant) -> Result<(), Box<EvalAltResult>> {
        if self.mode == Mode::Quick || DEADLINE.get().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        Err(EvalAltResult::ErrorTerminated(Dynamic::from(TOO_LONG), Position::NONE).into())
    }

    /// Time of the function that ran last.
    pub fn took(&self) -> Duration {
        TOOK.get()
    }

    /// Operations of the function that ran last.
    pub fn operations(&self) -> u64 {
        OPERATIONS.get()
    }

    /// Whether a [`Mode::Quick`] call had something for the log.
    pub fn spoke(&self) -> bool {
        SPOKE.get()
    }

    /// The lines logged so far.
    pub fn log(&self) -> Vec<String> {
        LOG.with_borrow(|log| {
            let mut lines = log.lines.clone();
            if log.dropped > 0 {
                lines.push(format!("… {} more lines were dropped", log.dropped));
            }
            lines
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        DEADLINE.set(None);
        FACTS.set(None);
        LOG.set(Log::new());
        MODE.set(Mode::Service);
    }
}

/// Whether what the call in hand has to say is kept from the log.
pub(super) fn muted() -> bool {
    let mode = MODE.get();
    if mode == Mode::Quick {
        SPOKE.set(true);
    }
    mode != Mode::Service
}

/// Keeps a line for the preview; false when the call has logged enough.
pub(super) fn keep_line(line: &str) -> bool {
    LOG.with_borrow_mut(|log| {
        let fits = log.lines.len() < limits::SCRIPT_LOG_LINES && log.bytes + line.len() <= limits::SCRIPT_LOG_BYTES;
        if fits {
            log.bytes += line.len();
            log.lines.push(line.to_owned());
        } else {
            log.dropped += 1;
        }
        fits
    })
}

/// The event in hand; `None` while a script is being loaded.
pub(super) fn facts() -> Option<Facts> {
    FACTS.with_borrow(Clone::clone)
}

/// The number of this `uuid()` call within the evaluation, from 0.
pub(super) fn next_uuid() -> u64 {
    let n = UUIDS.get();
    UUIDS.set(n + 1);
    n
}

/// Ends a host function whose call has run out of time. Host functions ask this after anything that takes long.
pub(super) fn check_time(clock: &Clock) -> Result<(), Box<EvalAltResult>> {
    match DEADLINE.get() {
        Some(deadline) if clock.instant() >= deadline => {
            ENDED.set(Some(TOO_LONG));
            Err(EvalAltResult::ErrorTerminated(Dynamic::from(TOO_LONG), Position::NONE).into())
        }
        _ => Ok(()),
    }
}

/// Ends the call for a value that is too large, where Rhai would drop the error of the function that made it.
#[expect(clippy::unnecessary_box_returns, reason = "the error type of every function of Rhai")]
pub(super) fn too_large() -> Box<EvalAltResult> {
    ENDED.set(Some(TOO_LARGE));
    EvalAltResult::ErrorTerminated(Dynamic::from(TOO_LARGE), Position::NONE).into()
}

/// Runs `run` on a stack that the deepest value a script can nest within its limits does not overflow, be it only
/// when it is dropped. A thread whose own stack is of [`limits::SCRIPT_STACK_BYTES`] pays nothing for it under the
/// default limits; any other pays for a mapping each time.
pub(super) fn with_stack<T>(limits: &ScriptLimits, run: impl FnOnce() -> T) -> T {
    // Comparing deep values takes most, about 2 KiB a level; the time limit ends their making before 20,000.
    const LEAST: usize = 46 * 1024 * 1024;
    // A chain of closures grows by a level in about eight operations, and takes about 300 bytes a level to drop.
    const PER_OPERATION: usize = 64;
    let operations = usize::try_from(limits.operations).unwrap_or(usize::MAX);
    let size = operations.saturating_mul(PER_OPERATION).saturating_add(LEAST).min(1 << 30);
    stacker::maybe_grow(size, size, run)
}

/// Builds the engine of one generation.
pub(super) fn build(clock: &Clock, host: host::Host) -> Engine {
    let mut engine = Engine::new_raw();
    // Everything of Rhai's standard library but time: `timestamp` differs from run to run.
    LanguageCorePackage::new().register_into_engine(&mut engine);
    ArithmeticPackage::new().register_into_engine(&mut engine);
    BasicStringPackage::new().register_into_engine(&mut engine);
    BasicIteratorPackage::new().register_into_engine(&mut engine);
    BasicFnPackage::new().register_into_engine(&mut engine);
    BitFieldPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicBlobPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    bound(&mut engine, clock);
    view::register(&mut engine, clock);
    host.register(&mut engine);
    engine
}

/// An engine that only reads scripts, and goes on where a variable or a module is unknown, so that the mistakes behind
/// it are found too.
pub(super) fn lenient(clock: &Clock) -> Engine {
    let mut engine = Engine::new_raw();
    bound(&mut engine, clock);
    engine.set_strict_variables(false);
    engine.set_optimization_level(OptimizationLevel::None);
    engine
}

fn bound(engine: &mut Engine, clock: &Clock) {
    // The interner is one lock for all threads, taken with a sleep of 10 ms when it is held.
    engine.set_max_strings_interned(0);
    engine.disable_symbol("eval");
    // What a curried function holds is in no size limit: `f = f.curry(f)` would double it until memory ends.
    engine.disable_symbol("curry");
    engine.set_strict_variables(true);
    engine.set_allow_shadowing(true);
    engine.set_max_call_levels(limits::SCRIPT_CALL_LEVELS);
    engine.set_max_expr_depths(limits::SCRIPT_EXPRESSION_DEPTH, limits::SCRIPT_EXPRESSION_DEPTH);
    engine.set_max_variables(limits::SCRIPT_VARIABLES);
    engine.set_max_functions(limits::SCRIPT_FUNCTIONS);
    engine.set_max_modules(limits::SCRIPT_MODULES);
    engine.set_max_string_size(limits::SCRIPT_STRING_BYTES);
    engine.set_max_array_size(limits::SCRIPT_ARRAY_ITEMS);
    engine.set_max_map_size(limits::SCRIPT_MAP_MEMBERS);
    // Rhai's own count starts anew in every callback, so operations are counted here.
    engine.set_max_operations(0);
    let clock = clock.clone();
    engine.on_progress(move |_| {
        let n = OPERATIONS.get() + 1;
        OPERATIONS.set(n);
        // Once over, always over: `sort` and others drop the error of a callback and would go on.
        if ENDED.get().is_none() {
            if n > MOST.get() {
                ENDED.set(Some(TOO_MUCH));
            } else if n.is_multiple_of(CLOCK_EVERY)
                && DEADLINE.get().is_some_and(|deadline| clock.instant() >= deadline)
            {
                ENDED.set(Some(TOO_LONG));
            }
        }
        ENDED.get().map(Dynamic::from)
    });
    #[expect(deprecated, reason = "Rhai marks so what it may change; there is no other way to a literal's digits")]
    engine.on_parse_token(|token, _, _| match token {
        // Rhai makes a float of it, which is another number.
        Token::FloatConstant(number) if number.1.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) => {
            let message = format!(
                "{0} is beyond 64 bits, and would be rounded: write parse_json(\"{0}\") for the exact number, or {0}.0 \
                 for a rounded one",
                number.1
            );
            Token::LexError(LexError::Runtime(message).into())
        }
        token => token,
    });
    engine.on_print(|line| host::log::line(host::log::Level::Info, line));
    engine.on_debug(|line, _, _| host::log::line(host::log::Level::Debug, line));
}
