-- The index: everything in it follows from the segment files and may be deleted. Bodies are never in it.

-- Segment files and how far each has been read: `offset` counts bytes of the plain file, before and after sealing.
CREATE TABLE segment (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,             -- w0-00000001.cbor
    offset INTEGER NOT NULL,
    closed INTEGER NOT NULL,                 -- 1: read to its end, nothing is ever added
    gone   INTEGER NOT NULL                  -- 1: the file was deleted; rows stay, bodies are gone
) STRICT;

CREATE TABLE damage (
    segment INTEGER NOT NULL REFERENCES segment (number),
    offset  INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    PRIMARY KEY (segment, offset)
) STRICT, WITHOUT ROWID;

-- One row an exchange, open ones too (`end_reason` null).
CREATE TABLE trace (
    number                INTEGER PRIMARY KEY,
    id                    TEXT NOT NULL UNIQUE,
    instance              TEXT NOT NULL,
    started_us            INTEGER NOT NULL,  -- µs since 1970; what other _us columns count from
    ts_start              INTEGER NOT NULL,  -- ms since 1970
    ts_end                INTEGER,
    first_record          INTEGER NOT NULL,  -- numbers within the instance
    last_record           INTEGER NOT NULL,
    client                TEXT,
    method                TEXT,
    path                  TEXT,              -- with query
    route_path            TEXT,              -- without
    upstream              TEXT,
    provider              TEXT,
    status                INTEGER,
    end_reason            TEXT,
    error_code            TEXT,
    disconnected          INTEGER NOT NULL,
    truncated_req         INTEGER NOT NULL,
    truncated_resp        INTEGER NOT NULL,
    altered               INTEGER NOT NULL,
    captured              TEXT NOT NULL,     -- request/response, each of all, heads, sizes, none
    model                 TEXT,
    stream                INTEGER,
    key_hash              TEXT NOT NULL,
    req_bytes             INTEGER NOT NULL,
    resp_bytes            INTEGER NOT NULL,
    resp_chunks           INTEGER NOT NULL,
    first_byte_us         INTEGER,
    duration_us           INTEGER,
    own_first_us          INTEGER,
    own_worst_us          INTEGER,
    own_sum_us            INTEGER,
    records_lost          INTEGER NOT NULL,
    -- What reading the bodies will tell; null until then.
    prompt_tokens         INTEGER,
    completion_tokens     INTEGER,
    total_tokens          INTEGER,
    cached_tokens         INTEGER,
    cache_creation_tokens INTEGER,
    reasoning_tokens      INTEGER,
    finish_reason         TEXT,
    media_count           INTEGER NOT NULL DEFAULT 0,
    parent_id             TEXT,
    session_root_id       TEXT NOT NULL,
    client_kind           TEXT,
    client_version        TEXT,
    client_project        TEXT
) STRICT;

-- Lists are newest first and paged by (ts_start, id), with or without one of the filters.
CREATE INDEX trace_by_time ON trace (ts_start DESC, id DESC);
CREATE INDEX trace_by_path ON trace (route_path, ts_start DESC, id DESC);
CREATE INDEX trace_by_status ON trace (status, ts_start DESC, id DESC);
CREATE INDEX trace_by_status_class ON trace (status / 100, ts_start DESC, id DESC);
CREATE INDEX trace_by_model ON trace (model, ts_start DESC, id DESC);
CREATE INDEX trace_by_key ON trace (key_hash, ts_start DESC, id DESC);
CREATE INDEX trace_open ON trace (number) WHERE end_reason IS NULL;

-- Where the records of an exchange stand, in order; `runs` is packed (see services/llmdump/positions.py).
CREATE TABLE position (
    trace   INTEGER NOT NULL REFERENCES trace (number),
    piece   INTEGER NOT NULL,
    segment INTEGER NOT NULL REFERENCES segment (number),
    runs    BLOB NOT NULL,
    PRIMARY KEY (trace, piece)
) STRICT, WITHOUT ROWID;

-- Per proxy instance: the record numbers that were read, as runs that do not touch; what it said of itself; and the
-- numbers it said will never come.
CREATE TABLE ledger (
    instance TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    PRIMARY KEY (instance, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger_instance (
    instance TEXT NOT NULL PRIMARY KEY,
    hello_us INTEGER,
    about    TEXT,                           -- JSON: version, pid, host, listen
    bye_us   INTEGER,
    bye_last INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger_gap (
    instance TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (instance, first)
) STRICT, WITHOUT ROWID;
