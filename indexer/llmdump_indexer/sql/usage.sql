-- name: find
SELECT requests, errors, input_tokens, input_uncached_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, cost_nano_usd, priced, req_bytes, resp_bytes, duration_us, ttft_us, tokens_per_second, own_us
FROM usage WHERE seconds = ? AND dimension = ? AND bucket = ? AND value = ?
-- name: save
INSERT OR REPLACE INTO usage (seconds, dimension, bucket, value, requests, errors, input_tokens, input_uncached_tokens,
    cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano_usd, priced, req_bytes, resp_bytes,
    duration_us, ttft_us, tokens_per_second, own_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
-- name: remove
DELETE FROM usage WHERE seconds = ? AND dimension = ? AND bucket = ? AND value = ?
