-- For wrk: POST requests, each with a number of its own in the body, and one line of JSON at the end.
-- wrk … -s load.lua URL -- BEFORE AFTER DIGITS: files with what stands before and behind the number.
-- They are made beforehand, as many as fit into POOL_BYTES, and come again in turn.

local POOL_BYTES = 32 * 1024 * 1024
local requests, last = {}, 0

local function content(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read("*a")
  file:close()
  return bytes
end

function init(args)
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["User-Agent"] = "bench/1"
  wrk.headers["Authorization"] = "Bearer sk-bench-0123456789"
  local before, after, digits = content(args[1]), content(args[2]), "%0" .. args[3] .. "d"
  for number = 1, math.floor(POOL_BYTES / (#before + #after)) do
    requests[number] = wrk.format("POST", nil, nil, before .. string.format(digits, number) .. after)
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary, latency, rates)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  local line = '{"done":%d,"took_us":%d,"bytes":%d,"failed":%d}\n'
  io.write(line:format(summary.requests, summary.duration, summary.bytes, failed))
end
