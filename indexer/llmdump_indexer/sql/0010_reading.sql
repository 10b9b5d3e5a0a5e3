-- What the bodies say: usage, times, errors, tools, clients; sessions; sums over time; full text.

-- Columns are null where nothing is known, and 0 only where 0 was reported. `prompt_tokens` … `cache_creation_tokens` of
-- the first step are the provider's own numbers; these are the same for all providers.
ALTER TABLE trace RENAME COLUMN provider TO backend;           -- the route's name for it
ALTER TABLE trace ADD COLUMN provider TEXT;
UPDATE trace SET provider = backend;
ALTER TABLE trace ADD COLUMN api TEXT;                         -- openai.chat, anthropic.messages, …
ALTER TABLE trace ADD COLUMN framing TEXT;                     -- of the answer: sse, ndjson, json, …
ALTER TABLE trace ADD COLUMN model_asked TEXT;                 -- `model` is the answered one, if the answer says
ALTER TABLE trace ADD COLUMN input_tokens INTEGER;             -- all of the prompt, cached or not
ALTER TABLE trace ADD COLUMN input_uncached_tokens INTEGER;
ALTER TABLE trace ADD COLUMN cache_read_tokens INTEGER;
ALTER TABLE trace ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE trace ADD COLUMN output_tokens INTEGER;            -- reasoning is within
ALTER TABLE trace ADD COLUMN cost_nano_usd INTEGER;            -- thousand-millionths of a dollar, so that sums are exact
ALTER TABLE trace ADD COLUMN prompt_per_second REAL;           -- as the server reports
ALTER TABLE trace ADD COLUMN tokens_per_second REAL;           -- as the server reports
ALTER TABLE trace ADD COLUMN output_tokens_per_second REAL;    -- as measured here
ALTER TABLE trace ADD COLUMN ttft_us INTEGER;
ALTER TABLE trace ADD COLUMN last_token_us INTEGER;
ALTER TABLE trace ADD COLUMN gap_p50_us INTEGER;               -- between events with tokens in them
ALTER TABLE trace ADD COLUMN gap_p99_us INTEGER;
ALTER TABLE trace ADD COLUMN gap_worst_us INTEGER;
ALTER TABLE trace ADD COLUMN event_count INTEGER;
ALTER TABLE trace ADD COLUMN complete INTEGER;                 -- the answer came to the end that its API knows
ALTER TABLE trace ADD COLUMN cut_by TEXT;                      -- who ended it before: client, backend, proxy, capture
ALTER TABLE trace ADD COLUMN response_id TEXT;
ALTER TABLE trace ADD COLUMN previous_response_id TEXT;
ALTER TABLE trace ADD COLUMN n_choices INTEGER;
ALTER TABLE trace ADD COLUMN tool_calls TEXT;                  -- JSON: [{"name", "id"}, …]
ALTER TABLE trace ADD COLUMN refusal TEXT;
ALTER TABLE trace ADD COLUMN error_type TEXT;                  -- as the provider calls it, in a stream too
ALTER TABLE trace ADD COLUMN error_message TEXT;
ALTER TABLE trace ADD COLUMN problem TEXT;                     -- what was wrong with the bytes, for the reader
ALTER TABLE trace ADD COLUMN user_hint TEXT;
ALTER TABLE trace ADD COLUMN session_hint TEXT;
ALTER TABLE trace ADD COLUMN traceparent TEXT;
ALTER TABLE trace ADD COLUMN prefix_hash TEXT;                 -- of the whole conversation that was sent
ALTER TABLE trace ADD COLUMN prefix_len INTEGER;               -- turns in it
ALTER TABLE trace ADD COLUMN depth INTEGER NOT NULL DEFAULT 0; -- steps from the first of its branch
-- Magnitudes, for ranges: the length in bits of the value, so that a range is a few equalities.
ALTER TABLE trace ADD COLUMN tokens_class INTEGER;             -- of total_tokens
ALTER TABLE trace ADD COLUMN cost_class INTEGER;               -- of the cost in millionths of a dollar
ALTER TABLE trace ADD COLUMN ttft_class INTEGER;               -- of ttft in ms

DROP INDEX trace_by_status_class;                             -- a class is a few statuses
CREATE INDEX trace_by_provider ON trace (provider, ts_start DESC, id DESC) WHERE provider IS NOT NULL;
CREATE INDEX trace_by_api ON trace (api, ts_start DESC, id DESC) WHERE api IS NOT NULL;
CREATE INDEX trace_by_client_kind ON trace (client_kind, ts_start DESC, id DESC) WHERE client_kind IS NOT NULL;
CREATE INDEX trace_by_client_project ON trace (client_project, ts_start DESC, id DESC) WHERE client_project IS NOT NULL;
CREATE INDEX trace_by_end_reason ON trace (end_reason, ts_start DESC, id DESC) WHERE end_reason IS NOT NULL;
CREATE INDEX trace_by_finish_reason ON trace (finish_reason, ts_start DESC, id DESC) WHERE finish_reason IS NOT NULL;
CREATE INDEX trace_by_error_type ON trace (error_type, ts_start DESC, id DESC) WHERE error_type IS NOT NULL;
CREATE INDEX trace_by_tokens_class ON trace (tokens_class, ts_start DESC, id DESC) WHERE tokens_class IS NOT NULL;
CREATE INDEX trace_by_cost_class ON trace (cost_class, ts_start DESC, id DESC) WHERE cost_class IS NOT NULL;
CREATE INDEX trace_by_ttft_class ON trace (ttft_class, ts_start DESC, id DESC) WHERE ttft_class IS NOT NULL;
CREATE INDEX trace_by_session ON trace (session_root_id, ts_start DESC, id DESC);

-- Which exchange another goes on from (see links.py).
ALTER TABLE trace ADD COLUMN linked_id TEXT;                   -- the exchange that was found
ALTER TABLE trace ADD COLUMN linked_by TEXT;                   -- by what: prefix, response_id, same, session, …
ALTER TABLE trace ADD COLUMN linked_rank INTEGER;              -- its place among what was looked for, the best is 0
CREATE INDEX trace_by_link ON trace (linked_id) WHERE linked_id IS NOT NULL;

-- What an exchange can be found under by those that go on from it.
CREATE TABLE link_key (
    key_hash   TEXT NOT NULL,
    key        TEXT NOT NULL,
    started_us INTEGER NOT NULL,
    trace      INTEGER NOT NULL REFERENCES trace (number),
    PRIMARY KEY (key_hash, key, started_us, trace)
) STRICT, WITHOUT ROWID;

CREATE INDEX link_key_by_trace ON link_key (trace);

-- What an exchange would rather be linked by, should one that has it still be indexed: as good as what it is linked by
-- (the same rank), or better (a lower one).
CREATE TABLE awaited (
    trace       INTEGER NOT NULL REFERENCES trace (number),
    rank        INTEGER NOT NULL,
    key_hash    TEXT NOT NULL,
    key         TEXT NOT NULL,
    linked_by   TEXT NOT NULL,
    earliest_us INTEGER NOT NULL,            -- one that began before is not meant
    started_us  INTEGER NOT NULL,            -- of the exchange that waits
    PRIMARY KEY (trace, rank)
) STRICT, WITHOUT ROWID;
CREATE INDEX awaited_by_key ON awaited (key_hash, key, started_us);

-- Sums of the exchanges that have ended, by time and one dimension (see tally.py). Sums are whole numbers, so that
-- their order does not matter.
CREATE TABLE usage (
    seconds               INTEGER NOT NULL,  -- length of the bucket: 60, 3600, 86400; 0: everything ever
    dimension             TEXT NOT NULL,     -- '' (all), model, key_hash, …
    bucket                INTEGER NOT NULL,  -- its begin, seconds since 1970
    value                 TEXT NOT NULL,
    requests              INTEGER NOT NULL,
    errors                INTEGER NOT NULL,
    input_tokens          INTEGER NOT NULL,
    input_uncached_tokens INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    cache_write_tokens    INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    reasoning_tokens      INTEGER NOT NULL,
    cost_nano_usd         INTEGER NOT NULL,
    priced                INTEGER NOT NULL,  -- requests whose cost is known
    req_bytes             INTEGER NOT NULL,
    resp_bytes            INTEGER NOT NULL,
    duration_us           BLOB NOT NULL,     -- histograms, packed (see services/llmdump/spread.py)
    ttft_us               BLOB NOT NULL,
    tokens_per_second     BLOB NOT NULL,     -- measured, in thousandths
    own_us                BLOB NOT NULL,     -- the proxy's own part: its worst read
    PRIMARY KEY (seconds, dimension, bucket, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_top ON usage (dimension, requests DESC, value) WHERE seconds = 0;

-- One row a session; open exchanges are turns too.
CREATE TABLE session (
    root                  TEXT NOT NULL PRIMARY KEY,   -- id of its first exchange
    key_hash              TEXT NOT NULL,
    n_turns               INTEGER NOT NULL,
    first_ts              INTEGER NOT NULL,  -- ms since 1970: begin of the first exchange
    last_ts               INTEGER NOT NULL,  -- and of the last
    last_path             TEXT,
    last_status           INTEGER,
    last_model            TEXT,
    client_kind           TEXT,              -- of the last exchange
    client_project        TEXT,
    session_hint          TEXT,
    ok_count              INTEGER NOT NULL,
    err_count             INTEGER NOT NULL,
    input_tokens          INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    cache_write_tokens    INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    reasoning_tokens      INTEGER NOT NULL,
    cost_nano_usd         INTEGER NOT NULL,
    priced                INTEGER NOT NULL   -- turns whose cost is known
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_time ON session (last_ts DESC, root DESC);
CREATE INDEX session_by_key ON session (key_hash, last_ts DESC, root DESC);
CREATE INDEX session_by_project ON session (client_project, last_ts DESC, root DESC) WHERE client_project IS NOT NULL;
CREATE INDEX session_by_client ON session (client_kind, last_ts DESC, root DESC) WHERE client_kind IS NOT NULL;

CREATE TABLE session_model (
    root  TEXT NOT NULL REFERENCES session (root),
    model TEXT NOT NULL,
    turns INTEGER NOT NULL,
    PRIMARY KEY (root, model)
) STRICT, WITHOUT ROWID;

-- What is new in a turn, cut at a limit: for search and its snippets. Everything else of a body is in the segments.
CREATE TABLE turn_text (
    trace  INTEGER PRIMARY KEY REFERENCES trace (number),
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL
) STRICT;
CREATE VIRTUAL TABLE search USING fts5 (
    prompt, answer, content = 'turn_text', content_rowid = 'trace', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER turn_text_added AFTER INSERT ON turn_text BEGIN
    INSERT INTO search (rowid, prompt, answer) VALUES (new.trace, new.prompt, new.answer);
END;
CREATE TRIGGER turn_text_deleted AFTER DELETE ON turn_text BEGIN
    INSERT INTO search (search, rowid, prompt, answer) VALUES ('delete', old.trace, old.prompt, old.answer);
END;
CREATE TRIGGER turn_text_changed AFTER UPDATE ON turn_text BEGIN
    INSERT INTO search (search, rowid, prompt, answer) VALUES ('delete', old.trace, old.prompt, old.answer);
    INSERT INTO search (rowid, prompt, answer) VALUES (new.trace, new.prompt, new.answer);
END;

-- For people with a SQLite shell.
CREATE VIEW v_traces AS
SELECT
    datetime(ts_start / 1000.0, 'unixepoch', 'subsec') AS started, id, client_kind AS client, client_project AS project,
    provider, api, model, status, coalesce(end_reason, 'open') AS ended, error_type, input_tokens, cache_read_tokens,
    output_tokens, round(cost_nano_usd / 1e9, 6) AS cost_usd, round(ttft_us / 1e6, 3) AS ttft_s,
    round(duration_us / 1e6, 3) AS duration_s, round(output_tokens_per_second, 1) AS tokens_per_s, own_worst_us,
    session_root_id AS session, depth, substr(turn_text.prompt, 1, 80) AS asked, substr(turn_text.answer, 1, 80) AS answered
FROM trace LEFT JOIN turn_text ON turn_text.trace = trace.number
ORDER BY ts_start DESC, id DESC;

CREATE VIEW v_sessions AS
SELECT
    root AS session, datetime(first_ts / 1000.0, 'unixepoch', 'subsec') AS began,
    datetime(last_ts / 1000.0, 'unixepoch', 'subsec') AS last, n_turns AS turns, client_kind AS client,
    client_project AS project, last_model AS model, last_status AS status, err_count AS errors, input_tokens,
    cache_read_tokens, output_tokens, round(cost_nano_usd / 1e9, 6) AS cost_usd, n_turns - priced AS unpriced_turns
FROM session
ORDER BY last_ts DESC, root DESC;

CREATE VIEW v_usage_by_day AS
SELECT
    date(bucket, 'unixepoch') AS day, value AS model, requests, errors, input_tokens, cache_read_tokens, output_tokens,
    reasoning_tokens, round(cost_nano_usd / 1e9, 6) AS cost_usd, requests - priced AS unpriced_requests,
    round(resp_bytes / 1048576.0, 1) AS response_mib
FROM usage
WHERE seconds = 86400 AND dimension = 'model'
ORDER BY bucket DESC, requests DESC;
