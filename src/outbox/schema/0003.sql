-- Keys that sealed something, by their ids; never a key itself. `marker` is a value sealed by it, so that a damaged one is
-- noticed when the store is opened.
CREATE TABLE sealing (key BLOB PRIMARY KEY, marker BLOB NOT NULL) WITHOUT ROWID;
