SELECT
    number, id, instance, started_us, first_record, last_record, ts_end, client, method, path, route_path, upstream,
    provider, status, end_reason, error_code, disconnected, truncated_req, truncated_resp, altered, captured, model, stream,
    key_hash, req_bytes, resp_bytes, resp_chunks, first_byte_us, duration_us, own_first_us, own_worst_us, own_sum_us,
    records_lost
FROM trace WHERE id = ?
