-- Where a conversation comes from and when it was last heard of, so that one that falls silent or loses its stream can be
-- ended. These stand before the maps, which may go on on other pages.
CREATE TABLE conversation_anew (
    row INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    ended_at INTEGER,
    events INTEGER NOT NULL,
    messages INTEGER NOT NULL,             -- rows of them; a snapshot is one
    said INTEGER NOT NULL,                 -- how many they are
    heard_at INTEGER,                      -- NULL while nothing but updates came: late ones of a conversation long forgotten
    stream INTEGER,                        -- NULL where its source has no streams
    source TEXT,
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    maps BLOB NOT NULL
);
INSERT INTO conversation_anew
    SELECT row, revision, opened_at, ended_at, events, messages, messages, opened_at, NULL, NULL, namespace, id, maps
    FROM conversation;
DROP TABLE conversation;
ALTER TABLE conversation_anew RENAME TO conversation;
CREATE UNIQUE INDEX conversation_id ON conversation (id, namespace);
CREATE INDEX conversation_ended ON conversation (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX conversation_open ON conversation (opened_at) WHERE ended_at IS NULL;
-- Conversations of sources without streams are not in it.
CREATE INDEX conversation_stream ON conversation (stream) WHERE stream IS NOT NULL AND ended_at IS NULL;

-- Events that wait for `analyses`: none of their webhooks is rendered before these are done.
CREATE TABLE analysis_due (seq INTEGER PRIMARY KEY);
