-- Sums by tool: all sums are made anew from the rows.
DELETE FROM usage;
