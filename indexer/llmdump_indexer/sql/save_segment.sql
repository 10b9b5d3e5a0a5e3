INSERT INTO segment (number, name, offset, closed, gone) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET offset = excluded.offset, closed = excluded.closed, gone = excluded.gone
