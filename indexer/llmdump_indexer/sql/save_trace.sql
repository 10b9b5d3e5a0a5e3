INSERT INTO trace (
    number, id, instance, started_us, ts_start, ts_end, first_record, last_record, client, method, path, route_path,
    upstream, provider, status, end_reason, error_code, disconnected, truncated_req, truncated_resp, altered, captured,
    model, stream, key_hash, req_bytes, resp_bytes, resp_chunks, first_byte_us, duration_us, own_first_us, own_worst_us,
    own_sum_us, records_lost, session_root_id
) VALUES (
    :number, :id, :instance, :started_us, :ts_start, :ts_end, :first_record, :last_record, :client, :method, :path, :route_path,
    :upstream, :provider, :status, :end_reason, :error_code, :disconnected, :truncated_req, :truncated_resp, :altered, :captured,
    :model, :stream, :key_hash, :req_bytes, :resp_bytes, :resp_chunks, :first_byte_us, :duration_us, :own_first_us, :own_worst_us,
    :own_sum_us, :records_lost, :id
)
ON CONFLICT (number) DO UPDATE SET
    ts_end = excluded.ts_end, last_record = excluded.last_record, client = excluded.client, method = excluded.method,
    path = excluded.path, route_path = excluded.route_path, upstream = excluded.upstream, provider = excluded.provider,
    status = excluded.status, end_reason = excluded.end_reason, error_code = excluded.error_code,
    disconnected = excluded.disconnected, truncated_req = excluded.truncated_req, truncated_resp = excluded.truncated_resp,
    altered = excluded.altered, captured = excluded.captured, model = excluded.model, stream = excluded.stream,
    key_hash = excluded.key_hash, req_bytes = excluded.req_bytes, resp_bytes = excluded.resp_bytes,
    resp_chunks = excluded.resp_chunks, first_byte_us = excluded.first_byte_us, duration_us = excluded.duration_us,
    own_first_us = excluded.own_first_us, own_worst_us = excluded.own_worst_us, own_sum_us = excluded.own_sum_us,
    records_lost = excluded.records_lost
