-- name: latest
-- The last to begin, before this one, of those that have this key.
SELECT trace.id, trace.parent_id, trace.session_root_id, trace.depth FROM link_key
CROSS JOIN trace ON trace.number = link_key.trace
WHERE link_key.key_hash = :key_hash AND link_key.key = :key AND link_key.started_us BETWEEN :earliest_us AND :started_us
    AND (trace.started_us, trace.id) < (:started_us, :id)
    AND (:session_hint IS NULL OR trace.session_hint = :session_hint)
ORDER BY link_key.started_us DESC, trace.id DESC LIMIT 1
-- name: earliest
-- The first to begin of those that have this key.
SELECT trace.id, trace.parent_id, trace.session_root_id, trace.depth FROM link_key
CROSS JOIN trace ON trace.number = link_key.trace
WHERE link_key.key_hash = :key_hash AND link_key.key = :key AND link_key.started_us BETWEEN :earliest_us AND :started_us
    AND (trace.started_us, trace.id) < (:started_us, :id)
    AND (:session_hint IS NULL OR trace.session_hint = :session_hint)
ORDER BY link_key.started_us, trace.id LIMIT 1
-- name: leave_key
INSERT OR IGNORE INTO link_key (key_hash, key, started_us, trace) VALUES (?, ?, ?, ?)
-- name: await
INSERT INTO awaited (trace, rank, key_hash, key, linked_by, earliest_us, started_us) VALUES (?, ?, ?, ?, ?, ?, ?)
-- name: await_no_longer
DELETE FROM awaited WHERE trace = ? AND rank > ?
-- name: waiting
-- Those that wait for one with this key: the rank that it has for them, and what they are linked to now.
SELECT child.number, awaited.rank, awaited.linked_by, child.linked_rank, linked.started_us, linked.id,
    child.parent_id, child.session_root_id, child.depth
FROM awaited
CROSS JOIN trace AS child ON child.number = awaited.trace
LEFT JOIN trace AS linked ON linked.id = child.linked_id
WHERE awaited.key_hash = :key_hash AND awaited.key = :key AND awaited.started_us >= :started_us
    AND awaited.earliest_us <= :started_us AND (child.started_us, child.id) > (:started_us, :id)
    AND (child.session_hint IS NULL OR child.session_hint = :session_hint)
-- name: link
UPDATE trace SET linked_id = :linked_id, linked_by = :linked_by, linked_rank = :rank WHERE number = :number
-- name: roots_below
WITH RECURSIVE below (id, root) AS (
    SELECT id, session_root_id FROM trace WHERE number = :number
    UNION ALL
    SELECT trace.id, trace.session_root_id FROM below CROSS JOIN trace ON trace.linked_id = below.id
)
SELECT DISTINCT root FROM below
-- name: move
-- The same rules as in `Link.place`.
WITH RECURSIVE below (number, id, parent_id, root, depth) AS (
    SELECT number, id, :parent_id, :root, :depth FROM trace WHERE number = :number
    UNION ALL
    SELECT
        trace.number, trace.id,
        CASE trace.linked_by WHEN 'same' THEN below.parent_id WHEN 'session' THEN NULL ELSE below.id END,
        below.root,
        CASE trace.linked_by WHEN 'same' THEN below.depth WHEN 'session' THEN 0 ELSE below.depth + 1 END
    FROM below CROSS JOIN trace ON trace.linked_id = below.id
)
UPDATE trace SET parent_id = below.parent_id, session_root_id = below.root, depth = below.depth
FROM below WHERE trace.number = below.number
-- name: has_linked
SELECT EXISTS (SELECT 1 FROM trace WHERE linked_id = :id)
