-- Begins and ends that are owed to webhooks without order, so that an end that is delivered finds the begins that it
-- makes stale. `key` is what their lane would be.
CREATE TABLE unordered (
    row INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,
    begins INTEGER NOT NULL
);
CREATE INDEX unordered_begin ON unordered (key) WHERE begins = 1;
