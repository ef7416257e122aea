//! Every bound in one place, unit last in the name. What a configuration may change carries its default here.

use std::time::Duration;

/// Largest request body that the HTTP source reads (`limits.body`).
pub const DEFAULT_BODY_BYTES: u64 = 8 * 1024 * 1024;
/// Attempts in flight over all webhooks (`limits.concurrency`).
pub const DEFAULT_CONCURRENCY: usize = 256;
/// Rhai operations a script call may take (`limits.script_operations`).
pub const DEFAULT_SCRIPT_OPERATIONS: u64 = 200_000;
/// Wall clock a script call may take, host functions included (`limits.script_time`).
pub const DEFAULT_SCRIPT_TIME: Duration = Duration::from_millis(50);
/// Nesting of a JSON document that is still read.
pub const JSON_DEPTH: usize = 128;
/// Events in one request.
pub const EVENTS_PER_REQUEST: usize = 10_000;
/// Length of an event type, an id, a namespace.
pub const NAME_BYTES: usize = 256;
/// Errors that a problem document lists.
pub const PROBLEM_ERRORS: usize = 20;
/// Response body kept per attempt, and read at all.
pub const RESPONSE_BYTES: usize = 4 * 1024;
/// Longest `Retry-After` that is honoured.
pub const RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Deliveries of one webhook kept ready in memory; the rest waits in the outbox.
pub const READY_DELIVERIES: usize = 256;
/// Commits waiting for the outbox writer; beyond it callers wait.
pub const COMMIT_QUEUE: usize = 1024;
/// Bytes of request bodies held in memory at once, over all requests; further requests wait.
pub const INFLIGHT_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Time a sender has for its whole request body.
pub const BODY_READ: Duration = Duration::from_secs(30);
/// Conversations whose state is kept in memory under `conversations.state: memory`.
pub const MEMORY_CONVERSATIONS: usize = 10_000;
/// Length of a dead letter's reason.
pub const REASON_BYTES: usize = 1024;
/// Largest answer that the command line reads from a running sidehook.
pub const LOCAL_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long the command line waits for a running sidehook's answer.
pub const LOCAL_ANSWER: Duration = Duration::from_secs(30);
/// Size of one YAML file of the configuration.
pub const CONFIG_FILE_BYTES: u64 = 1024 * 1024;
/// Nesting of one YAML file.
pub const CONFIG_DEPTH: usize = 32;
/// Nodes of one YAML file once its aliases are expanded.
pub const CONFIG_NODES: usize = 100_000;
/// Problems that one load reports; what lies beyond is counted.
pub const CONFIG_PROBLEMS: usize = 200;
/// Webhooks of one configuration.
pub const WEBHOOKS: usize = 1_000;
/// Length of a webhook's or source's name.
pub const CONFIG_NAME_BYTES: usize = 64;
/// Length of one interpolated text.
pub const INTERPOLATED_BYTES: usize = 256 * 1024;
/// Size of one script, or of another file beside it.
pub const SCRIPT_FILE_BYTES: u64 = 1024 * 1024;
/// Files under `rules_dir`.
pub const SCRIPT_FILES: usize = 2_000;
/// Nesting of folders under `rules_dir`.
pub const SCRIPT_FOLDERS: usize = 16;
/// Size of a secret, certificate or key file.
pub const SECRET_FILE_BYTES: u64 = 1024 * 1024;
/// Entries of a retry schedule, and attempts in all.
pub const RETRY_ENTRIES: usize = 100;
/// Length of a shown line of a configuration file.
pub const SHOWN_LINE_CHARS: usize = 200;
/// Quiet time after the last hint of a change before files are read again.
pub const RELOAD_QUIET: Duration = Duration::from_millis(250);
/// Longest time that further hints can put a reload off.
pub const RELOAD_DELAY: Duration = Duration::from_secs(2);
/// How often contents are compared whatever the watcher says.
pub const RELOAD_POLL: Duration = Duration::from_secs(10);
/// Reload requests that wait; beyond it callers wait.
pub const RELOAD_QUEUE: usize = 16;
/// Longest pause of a whole webhook after 429, 502 or 504, whatever `Retry-After` says.
pub const THROTTLE_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Connections that one listener serves at once.
pub const CONNECTIONS: usize = 1024;
/// From a connection or the last answer to the end of the next request's head.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request head.
pub const HEADER_BYTES: usize = 64 * 1024;
/// Requests at once over one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION: u32 = 128;
/// Smallest `outbox.max_bytes`: room for the store itself and its reserve.
pub const OUTBOX_LEAST_BYTES: u64 = 4 * 1024 * 1024;
/// Largest `limits.body`: a request is held in memory.
pub const MOST_BODY_BYTES: u64 = 256 * 1024 * 1024;
/// Length of a params selector, and dots in it.
pub const SELECTOR_BYTES: usize = 512;
/// Stack of the threads that evaluate scripts; mapped, not used, until a script nests deeply.
pub const SCRIPT_STACK_BYTES: usize = 64 * 1024 * 1024;
/// Script calls nested in each other.
pub const SCRIPT_CALL_LEVELS: usize = 32;
/// Nesting of expressions in a script.
pub const SCRIPT_EXPRESSION_DEPTH: usize = 64;
/// Variables in scope at once in a script.
pub const SCRIPT_VARIABLES: usize = 256;
/// Longest string a script may make.
pub const SCRIPT_STRING_BYTES: usize = 1024 * 1024;
/// Elements of an array a script may make, nested ones included.
pub const SCRIPT_ARRAY_ITEMS: usize = 50_000;
/// Members of a map a script may make, nested ones included.
pub const SCRIPT_MAP_MEMBERS: usize = 50_000;
/// Functions in one script, imports in one script.
pub const SCRIPT_FUNCTIONS: usize = 512;
/// Imports of one script, those of its imports included.
pub const SCRIPT_MODULES: usize = 64;
/// Source text of one script.
pub const SCRIPT_SOURCE_BYTES: usize = 1024 * 1024;
/// Lines a script call may log, and bytes in all of them.
pub const SCRIPT_LOG_LINES: usize = 100;
/// Bytes of all lines that a script call logs.
pub const SCRIPT_LOG_BYTES: usize = 16 * 1024;
/// A rendered payload.
pub const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
/// Deliveries that one `transform` may fan out to.
pub const FAN_OUT: usize = 1000;
/// Headers that a rule may add.
pub const RULE_HEADERS: usize = 64;
/// Name and value of a header that a rule adds.
pub const RULE_HEADER_BYTES: usize = 8 * 1024;
/// Time-outs in a row after which a rule is suspended.
pub const RULE_TIMEOUTS: u32 = 5;
/// Longest time for one connection attempt, when nobody's deadline ends it earlier.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses of one host that are tried.
pub const ADDRESSES_TRIED: usize = 8;
/// How long an unused connection is kept; below the 60 s after which many servers close theirs.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Unused connections kept per host.
pub const POOL_IDLE_CONNECTIONS: usize = 32;
/// Requests that the local receiver keeps for its reader.
pub const RECEIVED_REQUESTS: usize = 64;
/// Largest body that the local receiver takes.
pub const RECEIVED_BYTES: usize = 64 * 1024 * 1024;
/// Payload bytes of one webhook kept ready in memory.
pub const READY_BYTES: usize = 2 * 1024 * 1024;
/// Payload bytes of all webhooks kept ready in memory; each may have one delivery beyond it.
pub const READY_TOTAL_BYTES: usize = 16 * 1024 * 1024;
/// Looks for due deliveries at once.
pub const REFILLS: usize = 2;
/// How often a webhook's deliveries are looked for in the outbox without a hint.
pub const REFILL_EVERY: Duration = Duration::from_secs(1);
/// Results of attempts that may wait for the outbox before no further attempt starts.
pub const UNSETTLED_RESULTS: usize = 4096;
/// Results that go into one commit.
pub const SETTLEMENTS_PER_COMMIT: usize = 256;
/// Commands to the dispatcher that may wait.
pub const DISPATCH_COMMANDS: usize = 64;
/// Batches that one transaction of the outbox takes together.
pub const GROUP_BATCHES: usize = 256;
/// Payload that one transaction of the outbox takes together; a larger batch goes alone.
pub const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Ready deliveries on their way from the outbox writer to the dispatcher.
pub const READY_QUEUE: usize = 1024;
/// Payloads that one look for due deliveries reads.
pub const DUE_BYTES: usize = 8 * 1024 * 1024;
/// Attempts kept per delivery; older ones are forgotten.
pub const ATTEMPTS_KEPT: u32 = 50;
/// Rows that one page of a list looks at before it hands back a cursor.
pub const LIST_SCAN_ROWS: usize = 20_000;
/// Text of attempts that one page of a list carries.
pub const LIST_BYTES: usize = 4 * 1024 * 1024;
/// Rows that one slice of retention touches when the writer is idle.
pub const RETENTION_SLICE_ROWS: usize = 500;
/// What sidehook's own events and the results of attempts may use beyond `outbox.max_bytes`.
pub const OUTBOX_RESERVE_BYTES: u64 = 1024 * 1024;
/// Pages of the write-ahead log after which it is copied into the store.
pub const CHECKPOINT_PAGES: i32 = 1000;
/// How often retention is applied.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
/// First and longest pause before a failed store is opened again.
pub const REOPEN_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
