-- Lists by kind, by status and by open hold, without an index entry for a plain posting: those are found
-- by the primary key, because nearly every row is one.
create index journal_by_kind on journal (ledger_no, kind, seq) where kind <> 'post';
create index entries_held on entries (ledger_no, account_no, version) where held <> 0;
