-- Settlement: who takes part, what is to be paid, and the cycles that pay it. What became of an order is not
-- written here: its hold, its posting, its release and its return are transactions of the ledger, found in the
-- journal by keys that are made from the order's number, and a key is in the journal once. Rows are added and
-- never changed, but for settlement_work, which is a queue, and cut-offs. See docs/adr/0017.

create table settlement_participants (
    ledger_no      integer     not null references ledgers,
    participant_no integer     generated always as identity,
    name           text collate "C" not null check (length(name) between 1 and 140),
    kind           text collate "C" not null check (kind in ('member', 'ledger', 'rail')),
    peer_ledger_no integer     references ledgers
                   check ((peer_ledger_no is not null) = (kind = 'ledger') and peer_ledger_no <> ledger_no),
    created_at     timestamptz not null,
    primary key (ledger_no, participant_no)
);
create unique index settlement_participants_by_name on settlement_participants (ledger_no, name);
create unique index settlement_participants_by_peer on settlement_participants (ledger_no, peer_ledger_no)
    where peer_ledger_no is not null;

-- A participant's accounts on the ledger, per currency: where its payments are booked, and where it settles.
create table settlement_accounts (
    ledger_no          integer not null,
    participant_no     integer not null,
    currency           text collate "C" not null,
    position_account   integer not null,
    settlement_account integer not null check (settlement_account <> position_account),
    primary key (ledger_no, participant_no, currency),
    foreign key (ledger_no, participant_no) references settlement_participants
);

-- Cut-offs that a ledger keeps instead of those that FinFlow starts with; several a day make several cycles.
create table settlement_cut_offs (
    ledger_no integer  not null references ledgers,
    currency  text collate "C" not null,
    at_time   time     not null,
    zone      text     not null,
    calendar  text     not null,
    lag_days  smallint not null check (lag_days between 0 and 30),
    primary key (ledger_no, currency, at_time)
);

create table settlement_cycles (
    ledger_no  integer     not null references ledgers,
    cycle_no   bigint      generated always as identity (maxvalue 274877906943),
    currency   text collate "C" not null,
    exponent   smallint    not null,
    value_date date        not null,
    cut_off_at timestamptz not null,
    opened_at  timestamptz not null,
    primary key (ledger_no, cycle_no)
);
create unique index settlement_cycles_by_cut_off on settlement_cycles (ledger_no, currency, cut_off_at);

-- The steps that a cycle took, in order; its state is what they lead to. `evidence` is a digest of what the
-- step rests on, `attempt` the submission that it belongs to, from 1; 0 before the first.
create table settlement_steps (
    ledger_no integer     not null,
    cycle_no  bigint      not null,
    step_no   integer     not null check (step_no > 0),
    action    text collate "C" not null
              check (action in ('close', 'net', 'submit', 'settle', 'fail', 'return')),
    at        timestamptz not null,
    evidence  text        not null,
    attempt   integer     not null check (attempt >= 0),
    primary key (ledger_no, cycle_no, step_no),
    foreign key (ledger_no, cycle_no) references settlement_cycles
);
create unique index settlement_steps_once on settlement_steps (ledger_no, cycle_no, action, attempt);

-- An order. With a cycle it is netted, without one it settles by itself (gross). `payer_account` and
-- `payee_account` are accounts of this ledger; an order to another ledger names the payee's account there in
-- `peer_account`, and its payee here is the participant that stands for that ledger.
create table settlement_orders (
    ledger_no      integer     not null,
    order_no       bigint      generated always as identity (maxvalue 274877906943),
    batch_no       bigint      not null,
    cycle_no       bigint,
    accepted_at    timestamptz not null,
    payer_no       integer     not null,
    payee_no       integer     not null,
    payer_account  integer     not null,
    payee_account  integer     not null,
    peer_ledger_no integer,
    peer_account   integer,
    currency       text collate "C" not null,
    exponent       smallint    not null,
    amount_minor   bigint      not null check (amount_minor > 0),
    end_to_end_id  text collate "C" not null check (length(end_to_end_id) between 1 and 35),
    uetr           uuid,
    key            text        not null,
    details        text,
    primary key (ledger_no, order_no),
    check ((peer_ledger_no is null) = (peer_account is null))
);
create unique index settlement_orders_by_end_to_end on settlement_orders (ledger_no, payer_no, end_to_end_id);
create unique index settlement_orders_by_uetr on settlement_orders (ledger_no, uetr) where uetr is not null;
create index settlement_orders_by_cycle on settlement_orders (ledger_no, cycle_no, order_no)
    where cycle_no is not null;
create index settlement_orders_to_peers on settlement_orders (ledger_no, cycle_no, order_no)
    where peer_ledger_no is not null;
create index settlement_orders_by_batch on settlement_orders (ledger_no, batch_no, order_no);
comment on column settlement_orders.key is 'the caller''s idempotency key; the order''s place follows it';
comment on column settlement_orders.details is 'JSON: remittance and, for a rail, the creditor';
create sequence settlement_batch_nos maxvalue 274877906943;

-- The netting report of a cycle: a row a participant. Its digest is the evidence of the step `net`.
create table settlement_positions (
    ledger_no        integer not null,
    cycle_no         bigint  not null,
    participant_no   integer not null,
    payable_minor    bigint  not null check (payable_minor >= 0),
    receivable_minor bigint  not null check (receivable_minor >= 0),
    net_minor        bigint  not null check (net_minor = receivable_minor - payable_minor),
    obligations      integer not null check (obligations > 0),
    primary key (ledger_no, cycle_no, participant_no),
    foreign key (ledger_no, cycle_no) references settlement_cycles
);

-- What a rail was sent, and its answer: the first one to a submission counts, and nothing replaces it.
-- Participant 0 is the ledger itself: its answer is the decision to settle the attempt or to give it up.
create table settlement_submissions (
    ledger_no      integer     not null,
    cycle_no       bigint      not null,
    attempt        integer     not null,
    participant_no integer     not null,
    message_id     text collate "C" not null,
    orders         integer     not null,
    sent_at        timestamptz not null,
    primary key (ledger_no, cycle_no, attempt, participant_no)
);
create index settlement_submissions_by_message on settlement_submissions (ledger_no, message_id);
create table settlement_answers (
    ledger_no      integer     not null,
    cycle_no       bigint      not null,
    attempt        integer     not null,
    participant_no integer     not null,
    verdict        text collate "C" not null check (verdict in ('accepted', 'rejected')),
    detail         text        not null,
    at             timestamptz not null,
    primary key (ledger_no, cycle_no, attempt, participant_no),
    foreign key (ledger_no, cycle_no, attempt, participant_no) references settlement_submissions
);

-- Orders that come back: refused by the rail one by one, or returned by it after they were settled.
create table settlement_returns (
    ledger_no integer     not null,
    order_no  bigint      not null,
    at        timestamptz not null,
    reason    text        not null,
    source    text        not null,
    primary key (ledger_no, order_no),
    foreign key (ledger_no, order_no) references settlement_orders
);

-- Messages that came or went. One of a sender, a kind and an id is taken once; `digest` tells a repetition
-- from other content under the same name.
create table settlement_messages (
    ledger_no  integer     not null references ledgers,
    message_no bigint      generated always as identity (maxvalue 274877906943),
    direction  text collate "C" not null check (direction in ('in', 'out')),
    kind       text collate "C" not null,
    sender     text collate "C" not null,
    message_id text collate "C" not null,
    digest     bytea       not null check (length(digest) = 32),
    at         timestamptz not null,
    body       bytea,
    primary key (ledger_no, message_no)
);
create unique index settlement_messages_once on settlement_messages (ledger_no, sender, kind, message_id);

-- What is to be done, and who is at it until when. A row goes when its work is done: finished work is in the
-- tables above and in the journal.
create table settlement_work (
    ledger_no   integer     not null references ledgers,
    kind        text collate "C" not null check (kind in ('batch', 'cycle', 'return')),
    number      bigint      not null,
    due_at      timestamptz not null,
    lease_until timestamptz not null default '-infinity',
    claimed_by  text,
    failures    integer     not null default 0,
    last_error  text,
    primary key (ledger_no, kind, number)
) with (fillfactor = 50);
create index settlement_work_by_due on settlement_work (due_at);

-- Whether an order's money is posted on a ledger: from its posting, or from a payment at once, until it is
-- reversed. The key is the one that the program makes.
create function posted_on(ledger integer, order_ledger integer, order_number bigint) returns boolean
    language sql stable as $$
    select coalesce((
        select case when j.kind = 'post' then r.kind is null
                    else r.kind = 'capture' and z.seq is null end
          from journal j
          left join journal r on r.ledger_no = ledger and r.target = j.seq and r.code is null
          left join journal z on z.ledger_no = ledger and z.target = r.seq and z.code is null
         where j.ledger_no = ledger and j.code is null
           and j.key = '§order:' || order_ledger || '.' || order_number || ':pay'
    ), false)
$$;

do $$
declare
    kept text;
begin
    foreach kept in array array[
        'participants', 'accounts', 'cycles', 'steps', 'orders', 'positions', 'submissions', 'answers', 'returns',
        'messages'
    ] loop
        execute format(
            'create trigger settlement_%1$s_are_immutable before update or delete or truncate on settlement_%1$s '
            'for each statement execute function history_is_immutable()', kept);
        execute format(
            'alter table settlement_%1$s enable always trigger settlement_%1$s_are_immutable', kept);
    end loop;
end;
$$;
