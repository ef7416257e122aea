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
/// Refusals that one source logs in [`REFUSALS_WINDOW`]; the metrics count all.
pub const REFUSALS_LOGGED: u32 = 20;
/// See [`REFUSALS_LOGGED`].
pub const REFUSALS_WINDOW: Duration = Duration::from_secs(10);
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
/// What they take in memory together, about; those that were silent longest are given up beyond it.
pub const MEMORY_CONVERSATION_BYTES: usize = 256 * 1024 * 1024;
/// Open conversations that one look for silent or orphaned ones reads at once.
pub const OPEN_PAGE: usize = 256;
/// Of these, how many are ended at once.
pub const ENDS_AT_ONCE: usize = 32;
/// After a start, and after the outbox took nothing for a while, conversations have so long to be heard of again before
/// they are ended: those whose stream was left behind, and those that are silent for `conversations.idle_timeout`.
pub const HEARD_AGAIN: Duration = Duration::from_secs(30);
/// Entries of `analyses`.
pub const ANALYSES: usize = 32;
/// Answer of an analysis; a larger one is a failed one.
pub const ANALYSIS_BYTES: usize = 1024 * 1024;
/// Conversations whose analyses are called at once; others wait in the outbox.
pub const ANALYSED_AT_ONCE: usize = 32;
/// Attempts of one analysis, within its timeout.
pub const ANALYSIS_ATTEMPTS: u32 = 3;
/// Pause before the second of them, twice as long before each further one; `Retry-After` may ask for more.
pub const ANALYSIS_PAUSE: Duration = Duration::from_millis(500);
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
/// Longest path of a unix socket: `sockaddr_un` holds 108 bytes, the last of them a zero.
pub const SOCKET_PATH_BYTES: usize = 107;
/// Largest request head.
pub const HEADER_BYTES: usize = 64 * 1024;
/// Requests at once over one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION: u32 = 128;
/// Smallest `outbox.max_bytes`: room for the store itself and its reserve.
pub const OUTBOX_LEAST_BYTES: u64 = 4 * 1024 * 1024;
/// Largest `limits.body`: a request is held in memory.
pub const MOST_BODY_BYTES: u64 = 256 * 1024 * 1024;
/// Length of a params selector.
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
/// Functions in one script.
pub const SCRIPT_FUNCTIONS: usize = 512;
/// Import statements that one call may run, those of the scripts' top levels included.
pub const SCRIPT_MODULES: usize = 10_000;
/// Source text of one script.
pub const SCRIPT_SOURCE_BYTES: usize = 1024 * 1024;
/// Lines that one evaluation logs.
pub const SCRIPT_LOG_LINES: usize = 100;
/// Bytes of all lines that one evaluation logs.
pub const SCRIPT_LOG_BYTES: usize = 16 * 1024;
/// A rendered payload.
pub const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
/// Deliveries that one `transform` may fan out to.
pub const FAN_OUT: usize = 1000;
/// Events that an adapter may make of one message; together at most [`PAYLOAD_BYTES`].
pub const ADAPTED_EVENTS: usize = 1000;
/// Headers that a rule may add.
pub const RULE_HEADERS: usize = 64;
/// Name and value of a header that a rule adds.
pub const RULE_HEADER_BYTES: usize = 8 * 1024;
/// How long an adapter is suspended after as many time-outs in a row.
pub const ADAPTER_REST: Duration = Duration::from_secs(30);
/// Time-outs in a row after which a rule is suspended.
pub const RULE_TIMEOUTS: u32 = 5;
/// Longest time for one connection attempt, when nobody's deadline ends it earlier.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses of one host that are tried.
pub const ADDRESSES_TRIED: usize = 8;
/// How long an unused connection is kept; below the 60 s after which many servers close theirs. As many are kept as may be
/// under way at once: of a webhook its `concurrency`, of a relay [`RELAY_CONNECTIONS`].
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// What an HTTP/2 connection to a destination has written and keeps for its next turn, to send it together.
pub const GATHERED_BYTES: usize = 64 * 1024;
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
/// Threads of one runtime for what blocks: scripts that take long, names being resolved, files.
pub const BLOCKING_THREADS: usize = 32;
/// Batches that one transaction of the outbox takes together.
pub const GROUP_BATCHES: usize = 256;
/// Commits that wait together from which the outbox lets a few more join before the next transaction.
pub const CROWD: usize = 8;
/// How long it does.
pub const CROWD_LINGER: Duration = Duration::from_millis(1);
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
/// Rows that one slice touches beside commits, besides two for each of them: whoever comes meanwhile waits for it.
pub const RETENTION_BUSY_ROWS: usize = 32;
/// How long after a commit the writer still counts as busy.
pub const RETENTION_BUSY: Duration = Duration::from_millis(100);
/// What sidehook's own events and the results of attempts may use beyond `outbox.max_bytes`.
pub const OUTBOX_RESERVE_BYTES: u64 = 1024 * 1024;
/// Pages of the outbox's log, of 8 KiB, after which copying them into the store begins.
pub const CHECKPOINT_PAGES: i32 = 500;
/// How often it is looked whether the store's file is still there.
pub const STORE_LOOK: Duration = Duration::from_secs(1);
/// Pages of the log from which commits wait for the rest of the copying, so that it begins anew; at twice as many they wait
/// for all of it.
pub const LOG_PAGES: i32 = 1500;
/// Kept events that `reload.canary` may ask for.
pub const CANARY_EVENTS: i64 = 1000;
/// Bytes of kept events that a canary reads; older ones are left out.
pub const CANARY_BYTES: usize = 64 * 1024 * 1024;
/// Longest time that a canary puts a reload off; events that are left by then are not tried.
pub const CANARY_TIME: Duration = Duration::from_secs(30);
/// How often retention is applied.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
/// First and longest pause before a failed store is opened again.
pub const REOPEN_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// What a copy of an event is recognised by; of longer ones the tail is hashed.
pub const DEDUPE_KEY_BYTES: usize = 128;
/// The answer to a successful attempt that is kept in its delivery's row.
pub const SHORT_RESPONSE_BYTES: usize = 64;
/// Largest answer of a token endpoint that is read.
pub const TOKEN_BYTES: usize = 64 * 1024;
/// A token is renewed this long before it expires, or a quarter of its lifetime if that is shorter.
pub const TOKEN_SKEW: Duration = Duration::from_secs(60);
/// After a failed renewal a token that is still good is used for so long before the next one.
pub const TOKEN_RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// Largest head of a proxy's answer.
pub const PROXY_HEAD_BYTES: usize = 16 * 1024;
/// How long a destination's name is looked up before it is left to the proxy.
pub const PROXIED_LOOKUP: Duration = Duration::from_secs(3);
/// Messages and maps that are assembled for one conversation, as JSON text; `limits.body` where that is more.
pub const CONVERSATION_BYTES: usize = 64 * 1024 * 1024;
/// Messages that are assembled for one conversation.
pub const CONVERSATION_MESSAGES: usize = 100_000;
/// Conversations whose size is remembered; of others it is read again.
pub const CONVERSATION_SIZES: usize = 10_000;
/// What a rule may take, per function, on a thread that serves connections. One that takes more is done anew elsewhere,
/// and for the next evaluations at once.
pub const QUICK_RULE_TIME: Duration = Duration::from_millis(1);
/// The same in operations.
pub const QUICK_RULE_OPERATIONS: u64 = 2_000;
/// Evaluations that are not tried quickly after a second one in a row came to nothing; after the first, which may only have
/// met a busy machine, a single one.
pub const QUICK_RULE_REST: u32 = 64;
/// What the rules of one event take together on such a thread, about.
pub const QUICK_RULES_TIME: Duration = Duration::from_millis(2);
/// Kept events that one page of a replay renders, and their bytes.
pub const REPLAY_EVENTS: usize = 100;
/// See [`REPLAY_EVENTS`].
pub const REPLAY_BYTES: usize = 8 * 1024 * 1024;
/// Failures that one page of a replay tells.
pub const REPLAY_ERRORS: usize = 20;
/// Problems that a check of a store tells.
pub const VERIFY_PROBLEMS: usize = 100;
/// Troubles that wait to become events of sidehook's own.
pub const OWN_EVENTS: usize = 1024;
/// Of these, how many go into one commit.
pub const OWN_EVENTS_BATCH: usize = 64;
/// How often a full outbox is told at most.
pub const OUTBOX_FULL_EVERY: Duration = Duration::from_secs(60);
/// Keys that `outbox.encryption_key` may list.
pub const ENCRYPTION_KEYS: usize = 16;
/// Without anything asked for so long the outbox empties its log.
pub const LOG_EMPTY_AFTER: Duration = Duration::from_secs(2);
/// Connections that the admin listener serves at once.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Largest body that the admin API reads.
pub const ADMIN_BODY_BYTES: usize = 1024 * 1024;
/// Text of one YAML file once its aliases are expanded.
pub const CONFIG_EXPANDED_BYTES: usize = 8 * 1024 * 1024;

/// Unknown variables and modules of one script that are reported together.
pub const SCRIPT_PROBLEMS: usize = 20;
/// What is still taken in and dropped of a request that was answered before it was read, and for how long.
pub const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// See [`LINGER_BYTES`].
pub const LINGER: Duration = Duration::from_secs(2);
/// Messages of a stream that go into one commit when they are there already.
pub const BATCH_MESSAGES: usize = 64;
/// What they take together; a larger one goes alone.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// Events that an `exec` source has read and the outbox has not taken yet; beyond it they are dropped, or the child waits.
pub const EXEC_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// After a child's end: how long its output must be silent, and how long it is read at most, where others hold it open.
pub const EXEC_REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often events that are dropped are told of in the log.
pub const DROPPED_EVERY: Duration = Duration::from_secs(10);
/// One read of standard input or of a followed file.
pub const READ_BYTES: usize = 64 * 1024;
/// Bytes of a line that a unix connection may hold without asking for room that all connections share.
pub const FREE_LINE_BYTES: usize = 64 * 1024;
/// How long an answer may take to be written once sidehook ends.
pub const LAST_ANSWER: Duration = Duration::from_secs(1);
/// How often a followed file is looked at without a hint.
pub const FILE_POLL: Duration = Duration::from_secs(1);
/// How long a file that was rotated away is still read, once its successor has something in it.
pub const FILE_LINGER: Duration = Duration::from_millis(500);
/// Longest id of a server-sent event that is kept.
pub const EVENT_ID_BYTES: usize = 4 * 1024;
/// How long an event stream is left alone before it is opened again, until it says otherwise.
pub const SSE_RETRY: Duration = Duration::from_secs(3);
/// Shortest and longest pause before an event stream is opened again, whatever it says, before they are spread.
pub const SSE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// An event stream that is not open again after so long has ended.
pub const SSE_RESUME: Duration = Duration::from_secs(30);
/// An event stream on which nothing comes for so long, no comment either, is opened anew.
pub const SSE_SILENCE: Duration = Duration::from_secs(5 * 60);
/// Header lines of one message that is relayed.
pub const HEADER_LINES: usize = 1024;
/// Extension of one chunk of a body that is relayed.
pub const CHUNK_EXTENSION_BYTES: usize = 16 * 1024;
/// Connections that one proxy source serves at once.
pub const RELAY_CONNECTIONS: usize = 16 * 1024;
/// Requests at once over one HTTP/2 connection to a proxy source.
pub const RELAY_STREAMS: u32 = 1024;
/// What one read of relayed bytes takes at most, per direction.
pub const RELAY_READ_BYTES: usize = 64 * 1024;
/// How long a kept connection to an upstream may have been quiet for a request that must not be sent twice.
pub const RELAY_RESTED: Duration = Duration::from_secs(1);
/// How often kept connections to an upstream are looked through.
pub const RELAY_SWEEP: Duration = Duration::from_secs(5);
/// How long it is remembered whether an upstream speaks HTTP/2.
pub const HTTP2_REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// How long an upstream is given to answer a greeting in HTTP/2.
pub const HTTP2_GREETING: Duration = Duration::from_secs(1);
/// Copies that one tapped stream may hold before they are read, and messages of it that wait to be handed on.
pub const TAP_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Copies that all taps of one source hold together.
pub const TAP_SOURCE_BYTES: usize = 64 * 1024 * 1024;
/// Tapped bodies of one source that are committed at once.
pub const TAP_COMMITS: usize = 256;
/// What one piece of a compressed body may inflate to.
pub const TAP_INFLATED_BYTES: usize = 16 * 1024 * 1024;
/// How often at most a source's log says that its taps lose messages.
pub const TAP_LOG_PAUSE: Duration = Duration::from_secs(10);
