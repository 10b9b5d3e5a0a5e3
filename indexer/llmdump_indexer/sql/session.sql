-- name: add
INSERT INTO session (root, key_hash, n_turns, first_ts, last_ts, ok_count, err_count, input_tokens, cache_read_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, cost_nano_usd, priced)
VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (root) DO UPDATE SET
    n_turns = n_turns + excluded.n_turns, ok_count = ok_count + excluded.ok_count,
    err_count = err_count + excluded.err_count, input_tokens = input_tokens + excluded.input_tokens,
    cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd, priced = priced + excluded.priced
-- name: add_model
INSERT INTO session_model (root, model, turns) VALUES (?, ?, ?)
ON CONFLICT (root, model) DO UPDATE SET turns = turns + excluded.turns
-- name: remove_models
DELETE FROM session_model WHERE root = :root AND turns = 0
-- name: ends
UPDATE session SET
    first_ts = (SELECT ts_start FROM trace WHERE session_root_id = :root ORDER BY ts_start, id LIMIT 1),
    (last_ts, key_hash, last_path, last_status, last_model, client_kind, client_project, session_hint) = (
        SELECT ts_start, key_hash, path, status, model, client_kind, client_project, session_hint FROM trace
        WHERE session_root_id = :root ORDER BY ts_start DESC, id DESC LIMIT 1
    )
WHERE root = :root
-- name: remove_empty
DELETE FROM session WHERE root = :root AND n_turns = 0
-- name: clear
DELETE FROM session WHERE root = :root
-- name: clear_models
DELETE FROM session_model WHERE root = :root
-- name: sum
INSERT INTO session (root, key_hash, n_turns, first_ts, last_ts, ok_count, err_count, input_tokens, cache_read_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, cost_nano_usd, priced)
SELECT session_root_id, min(key_hash), count(*), 0, 0, count(*) FILTER (WHERE status / 100 = 2),
    count(*) FILTER (WHERE status >= 400),
    coalesce(sum(input_tokens), 0), coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),
    coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0), coalesce(sum(cost_nano_usd), 0),
    count(cost_nano_usd)
FROM trace WHERE session_root_id = :root GROUP BY session_root_id
-- name: sum_models
INSERT INTO session_model (root, model, turns)
SELECT session_root_id, model, count(*) FROM trace WHERE session_root_id = :root AND model IS NOT NULL
GROUP BY session_root_id, model
