-- Times are milliseconds since the Unix epoch. `seq` is an event's place in the order of arrival; rows of deliveries and
-- waits come from the same counter, so that a greater number is always a later one and none is used twice.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    next INTEGER NOT NULL,                 -- the next number to give out
    conversations_open INTEGER NOT NULL
);
INSERT INTO meta VALUES (0, 1, 0);

-- One row per webhook ever seen: its standing and its side of the ledger. `owed` deliveries are pending, or held
-- where the webhook is not known, not enabled, paused or disabled.
CREATE TABLE webhook (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    known INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    file_hash TEXT NOT NULL,
    standing TEXT NOT NULL,                -- active, paused, disabled
    standing_reason TEXT,
    standing_hash TEXT,
    matched INTEGER NOT NULL, filtered INTEGER NOT NULL, rendered INTEGER NOT NULL, rule_failed INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    created INTEGER NOT NULL, owed INTEGER NOT NULL, delivered INTEGER NOT NULL, dead INTEGER NOT NULL,
    purged INTEGER NOT NULL
);

CREATE TABLE delivery (
    row INTEGER PRIMARY KEY,
    webhook INTEGER NOT NULL,
    state INTEGER NOT NULL,                -- 0 owed, 1 delivered, 2 dead
    ready INTEGER NOT NULL,                -- owed, and first in its lane
    next_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,             -- in all
    tries INTEGER NOT NULL,                -- since it was last asked for by hand
    seq INTEGER NOT NULL,
    idx INTEGER NOT NULL,                  -- place in its fan-out
    lane INTEGER,                          -- hash of webhook and conversation; NULL when unordered
    arrived INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    conversation TEXT,
    traceparent TEXT,
    headers TEXT,                          -- JSON array of pairs
    reason TEXT,
    -- The attempt that delivered it, where its answer was short; all others are rows of their own.
    won_at INTEGER,
    won_ms INTEGER,
    won_status TEXT,
    won_response TEXT
);
CREATE UNIQUE INDEX delivery_id ON delivery (id);
CREATE INDEX delivery_due ON delivery (webhook, next_at) WHERE ready = 1;
CREATE INDEX delivery_settled ON delivery (state, changed_at) WHERE state > 0;
CREATE INDEX delivery_dead ON delivery (state) WHERE state = 2;
CREATE INDEX delivery_begins ON delivery (state) WHERE state = 0 AND event_type = 'conversation.begin';

-- Payloads that are owed, under webhook * 2^40 + row, so that each webhook's are together and the oldest is the first.
CREATE TABLE body (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
-- Payloads of what is dead, and of what was delivered where they are kept.
CREATE TABLE kept_body (row INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE attempt (
    delivery INTEGER NOT NULL,
    n INTEGER NOT NULL,
    at INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    response TEXT,
    PRIMARY KEY (delivery, n)
) WITHOUT ROWID;

-- The order of what is not settled. `delivery` is 0 for an event that waits.
CREATE TABLE lane (
    lane INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    delivery INTEGER NOT NULL,
    PRIMARY KEY (lane, seq, idx)
) WITHOUT ROWID;

CREATE TABLE wait (
    row INTEGER PRIMARY KEY,
    webhook INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    lane INTEGER,
    deadline INTEGER NOT NULL
);
CREATE INDEX wait_deadline ON wait (webhook, deadline);
CREATE INDEX wait_event ON wait (seq);

CREATE TABLE waiting_event (
    seq INTEGER PRIMARY KEY,
    arrived INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    namespace TEXT,                        -- of the conversation
    conversation TEXT,
    traceparent TEXT,
    body BLOB NOT NULL
);
CREATE INDEX waiting_event_conversation ON waiting_event (conversation, namespace);

CREATE TABLE kept_event (
    seq INTEGER PRIMARY KEY,
    arrived INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    event_id TEXT NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE dedupe (
    key BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    until INTEGER NOT NULL,
    event_id TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE conversation (
    row INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    ended_at INTEGER,
    events INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    maps BLOB NOT NULL
);
CREATE UNIQUE INDEX conversation_id ON conversation (id, namespace);
CREATE INDEX conversation_ended ON conversation (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX conversation_open ON conversation (opened_at) WHERE ended_at IS NULL;

-- Messages under conversation * 2^24 + n: a row of a table by rowid stays on its page where an index would spill it.
CREATE TABLE message (key INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE source_offset (source TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
