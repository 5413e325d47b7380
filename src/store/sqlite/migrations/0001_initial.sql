CREATE TABLE session (
    id BLOB PRIMARY KEY NOT NULL,
    -- The session as JSON.
    record TEXT NOT NULL
) STRICT;

CREATE TABLE event (
    -- AUTOINCREMENT: a sequence is not given twice, even when all events have been purged.
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    -- NULL: the event is about the API.
    session BLOB,
    session_sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    -- Milliseconds since the Unix epoch.
    time INTEGER NOT NULL,
    source TEXT NOT NULL,
    -- The CloudEvents data as JSON, told again as it was told first.
    data TEXT NOT NULL,
    UNIQUE (session, session_sequence)
) STRICT;

-- For the purge, which would otherwise read all that is kept to find what is old.
CREATE INDEX event_time ON event (time);

CREATE TABLE sink (
    name TEXT PRIMARY KEY NOT NULL,
    -- Events up to and with this sequence have been delivered.
    cursor INTEGER NOT NULL
) STRICT;

-- Where a session's events would continue if it were tracked again. The id itself is gone.
CREATE TABLE forgotten (
    session_hash BLOB PRIMARY KEY NOT NULL,
    last_sequence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: how many events of the API there were, and why it is unavailable, if it is.
CREATE TABLE api (
    announced INTEGER NOT NULL,
    cause TEXT,
    -- Milliseconds since the Unix epoch.
    since INTEGER
) STRICT;
INSERT INTO api (announced) VALUES (0);
