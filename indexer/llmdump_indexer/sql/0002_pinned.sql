-- 1: there is a copy of this exchange in <data>/pinned, which outlives its segments (see services/llmdump/pins.py).
ALTER TABLE trace ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
CREATE INDEX trace_pinned ON trace (ts_start DESC, id DESC) WHERE pinned;
