-- Reconciliation: what is expected to move on accounts at other banks, what those banks report, and what of
-- both is one. Rows are added and never changed, but for two small tables that hold what is still open: the
-- queue of what is unmatched, and the counts of what was matched. However long the history grows, reconciling
-- and reporting read those two alone. See docs/explanation/reconciliation.md.

-- An account of ours at another bank, through which a participant is paid.
create table settlement_nostros (
    ledger_no      integer     not null,
    nostro_no      integer     generated always as identity,
    participant_no integer     not null,
    currency       text collate "C" not null,
    exponent       smallint    not null,
    account        text collate "C" not null check (length(account) between 1 and 35),
    owner          text collate "C" not null check (length(owner) between 1 and 140),
    created_at     timestamptz not null,
    primary key (ledger_no, nostro_no),
    foreign key (ledger_no, participant_no) references settlement_participants
);
create unique index settlement_nostros_by_participant
    on settlement_nostros (ledger_no, participant_no, currency);
create unique index settlement_nostros_by_account on settlement_nostros (ledger_no, account, currency);

-- What should move: out for an order that was settled through a rail, in for one that the rail returned.
create table settlement_movements (
    ledger_no     integer     not null,
    movement_no   bigint      generated always as identity,
    nostro_no     integer     not null,
    order_no      bigint      not null,
    direction     text collate "C" not null check (direction in ('out', 'in')),
    amount_minor  bigint      not null check ((amount_minor < 0) = (direction = 'out') and amount_minor <> 0),
    value_date    date        not null,
    since         timestamptz not null,
    uetr          uuid,
    end_to_end_id text collate "C" not null,
    batch         text collate "C",
    primary key (ledger_no, movement_no),
    foreign key (ledger_no, nostro_no) references settlement_nostros,
    foreign key (ledger_no, order_no) references settlement_orders
);
create unique index settlement_movements_once on settlement_movements (ledger_no, order_no, direction);

-- What a bank has reported. `booking` is the bank's own reference of it, so that what a notification and then
-- a statement report is one line.
create table settlement_lines (
    ledger_no      integer     not null,
    line_no        bigint      generated always as identity,
    nostro_no      integer     not null,
    message_no     bigint      not null,
    line_id        text collate "C" not null,
    booking        text collate "C",
    amount_minor   bigint      not null,
    value_date     date        not null,
    since          timestamptz not null,
    uetr           uuid,
    end_to_end_id  text collate "C",
    instruction_id text collate "C",
    batch          text collate "C",
    words          text        not null,
    primary key (ledger_no, line_no),
    foreign key (ledger_no, nostro_no) references settlement_nostros,
    foreign key (ledger_no, message_no) references settlement_messages
);
create unique index settlement_lines_once on settlement_lines (ledger_no, line_id);
create index settlement_lines_by_booking
    on settlement_lines (ledger_no, nostro_no, booking, amount_minor) where booking is not null;

-- Which line a movement was found in, and by which rule. A movement that came to nothing, because the rail
-- refused it after all, has no line.
create table settlement_matches (
    ledger_no   integer     not null,
    movement_no bigint      not null,
    line_no     bigint,
    rule        text collate "C" not null,
    at          timestamptz not null,
    primary key (ledger_no, movement_no),
    foreign key (ledger_no, movement_no) references settlement_movements,
    foreign key (ledger_no, line_no) references settlement_lines,
    check ((line_no is null) = (rule = 'refused'))
);

-- What is unmatched: a movement or a line. `other_no` is the one of the other side that has the same reference
-- and another amount.
create table settlement_unmatched (
    ledger_no    integer     not null,
    unmatched_no bigint      generated always as identity,
    nostro_no    integer     not null,
    movement_no  bigint,
    line_no      bigint,
    other_no     bigint,
    since        timestamptz not null,
    primary key (ledger_no, unmatched_no),
    check ((movement_no is null) <> (line_no is null))
) with (fillfactor = 70);
create unique index settlement_unmatched_movements
    on settlement_unmatched (ledger_no, movement_no) where movement_no is not null;
create unique index settlement_unmatched_lines
    on settlement_unmatched (ledger_no, line_no) where line_no is not null;
create index settlement_unmatched_by_nostro on settlement_unmatched (ledger_no, nostro_no, unmatched_no);

-- How many movements each rule has matched, and how many of them within the promise.
create table settlement_match_counts (
    ledger_no integer not null,
    nostro_no integer not null,
    rule      text collate "C" not null,
    matched   bigint  not null,
    in_time   bigint  not null,
    primary key (ledger_no, nostro_no, rule)
) with (fillfactor = 50);

-- Which submission a message of a rail spoke of.
create table settlement_references (
    ledger_no      integer not null,
    cycle_no       bigint  not null,
    attempt        integer not null,
    participant_no integer not null,
    message_no     bigint  not null,
    primary key (ledger_no, cycle_no, attempt, participant_no, message_no),
    foreign key (ledger_no, cycle_no, attempt, participant_no) references settlement_submissions,
    foreign key (ledger_no, message_no) references settlement_messages
);
-- Which message of a rail brought an order back.
create table settlement_return_messages (
    ledger_no  integer not null,
    order_no   bigint  not null,
    message_no bigint  not null,
    primary key (ledger_no, order_no),
    foreign key (ledger_no, order_no) references settlement_returns,
    foreign key (ledger_no, message_no) references settlement_messages
);

-- `asked` counts how often work was asked for while somebody may be at it: who ends it looks whether he has
-- seen the last of it.
alter table settlement_work add column asked bigint not null default 0;
-- finflow: allow ban-drop-constraint because the new check, in the same statement, allows all that the old one did
alter table settlement_work
    drop constraint settlement_work_kind_check,
    add constraint settlement_work_kind_check
    check (kind in ('batch', 'cycle', 'return', 'reconcile')) not valid;

create trigger settlement_nostros_are_immutable before update or delete or truncate on settlement_nostros
    for each statement execute function history_is_immutable();
alter table settlement_nostros enable always trigger settlement_nostros_are_immutable;
create trigger settlement_movements_are_immutable before update or delete or truncate on settlement_movements
    for each statement execute function history_is_immutable();
alter table settlement_movements enable always trigger settlement_movements_are_immutable;
create trigger settlement_lines_are_immutable before update or delete or truncate on settlement_lines
    for each statement execute function history_is_immutable();
alter table settlement_lines enable always trigger settlement_lines_are_immutable;
create trigger settlement_matches_are_immutable before update or delete or truncate on settlement_matches
    for each statement execute function history_is_immutable();
alter table settlement_matches enable always trigger settlement_matches_are_immutable;
create trigger settlement_references_are_immutable before update or delete or truncate on settlement_references
    for each statement execute function history_is_immutable();
alter table settlement_references enable always trigger settlement_references_are_immutable;
create trigger settlement_return_messages_are_immutable before update or delete or truncate on settlement_return_messages
    for each statement execute function history_is_immutable();
alter table settlement_return_messages enable always trigger settlement_return_messages_are_immutable;
