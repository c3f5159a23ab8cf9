-- Which release of the program wrote a row. Rows from before, and those of a process that does not know its
-- release, say nothing. No default, no check and no index: adding the column neither rewrites nor reads the
-- journal, and the money path pays for the bytes alone. What a release did is found by time, because seq
-- and recorded_at rise together. See docs/adr/0024.
alter table journal add column release text collate "C";
