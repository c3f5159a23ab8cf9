-- Which span asked for work in the queue, as W3C's traceparent, where its trace was chosen at its beginning:
-- almost no work has one. What a worker does later links to it. The rows go with the work; without a reference
-- to it, because a request that joins a cycle would otherwise lock the cycle's row of the queue.
create table settlement_causes (
    ledger_no   integer not null,
    kind        text collate "C" not null,
    number      bigint  not null,
    traceparent text collate "C" not null,
    primary key (ledger_no, kind, number, traceparent)
);
