-- Tenants own ledgers; a ledger is one serial log. Every key begins with the ledger, so that the whole
-- schema shards by ledger. Text keys are collated "C": compared as bytes, the same on every machine.

create table tenants (
    tenant_no  integer generated always as identity (maxvalue 16777215) primary key,
    name       text        not null check (length(name) between 1 and 200),
    created_at timestamptz not null
);

create table ledgers (
    ledger_no  integer generated always as identity (maxvalue 16777215) primary key,
    tenant_no  integer     not null references tenants,
    name       text        not null check (length(name) between 1 and 200),
    created_at timestamptz not null
);
create index ledgers_by_tenant on ledgers (tenant_no, ledger_no);

-- The head is the only row that the money path updates, and its lock is the ledger's serial order.
-- Free space in the page keeps that update inside it (HOT).
create table heads (
    ledger_no   integer     primary key references ledgers,
    seq         bigint      not null,
    account_no  integer     not null,
    recorded_at timestamptz not null
) with (fillfactor = 10);

create table assets (
    ledger_no integer  not null references ledgers,
    code      text collate "C" not null,
    exponent  smallint not null check (exponent between 0 and 18),
    primary key (ledger_no, code)
);

create table accounts (
    ledger_no          integer     not null references ledgers,
    account_no         integer     not null,
    seq                bigint      not null,
    created_at         timestamptz not null,
    currency           text collate "C" not null,
    exponent           smallint    not null,
    kind               text collate "C" not null
                       check (kind in ('asset', 'liability', 'equity', 'income', 'expense')),
    normal             smallint    not null
                       check (normal = case when kind in ('asset', 'expense') then 1 else -1 end),
    status             text collate "C" not null check (status in ('open', 'frozen', 'closed')),
    floor              bigint      check (floor <= 0),
    ceiling            bigint      check (ceiling >= 0),
    external_reference text collate "C",
    metadata           json,
    primary key (ledger_no, account_no)
);
create unique index accounts_by_reference on accounts (ledger_no, external_reference)
    where external_reference is not null;

-- The journal: every command that the ledger decided, in the order decided, refusals included. `command`
-- holds what cannot be derived from the entries; `legs` names the entries, as pairs of a 4-byte account
-- number and an 8-byte version; version 0 is the account itself (opened or changed).
create table journal (
    ledger_no   integer     not null,
    seq         bigint      not null,
    recorded_at timestamptz not null,
    target      bigint,
    expires_at  timestamptz,
    kind        text collate "C" not null,
    key         text collate "C" not null,
    caller      text collate "C" not null,
    legs        bytea,
    code        text collate "C",
    param       text,
    reference   text collate "C",
    command     text,
    primary key (ledger_no, seq)
);
create unique index journal_by_key on journal (ledger_no, key);
-- A pending transaction is resolved once and a posted one reversed once, whatever the programs believe.
create unique index journal_by_target on journal (ledger_no, target)
    where target is not null and code is null;
create index journal_by_expiry on journal (ledger_no, expires_at) where expires_at is not null;
create index journal_by_reference on journal (ledger_no, reference, seq) where reference is not null;

-- An entry carries its account's totals after it. Versions are dense per account, so the newest entry is
-- one step into the primary key and every as-of question a binary search in it. `effective_max` is the
-- latest value date so far; `late_at` is the entry's own value date where that is earlier.
create table entries (
    ledger_no       integer     not null,
    account_no      integer     not null,
    version         bigint      not null,
    seq             bigint      not null,
    amount          bigint      not null,
    held            bigint      not null,
    posted_debits   bigint      not null,
    posted_credits  bigint      not null,
    pending_debits  bigint      not null,
    pending_credits bigint      not null,
    effective_max   timestamptz not null,
    late_at         timestamptz,
    primary key (ledger_no, account_no, version),
    constraint totals_not_negative check (
        posted_debits >= 0 and posted_credits >= 0 and pending_debits >= 0 and pending_credits >= 0
    )
);
create index entries_late on entries (ledger_no, account_no, version) where late_at is not null;
comment on column entries.amount is 'minor units booked: a debit is positive, a credit negative';
comment on column entries.held is 'change of the pending totals: debit side positive, credit side negative';

-- Whether an entry is its transaction's last on its account: between two of them an account may dip.
create function is_last(ledger integer, account integer, entry_version bigint, entry_seq bigint) returns boolean
    language sql stable as $$
    select not exists (
        select from entries
         where ledger_no = ledger and account_no = account and version = entry_version + 1 and seq = entry_seq
    )
$$;

-- The second lock: what the program decided is checked once more, set-based, before it can commit. A large
-- batch is planned for what it is (most often a hash join with the accounts); a small one keeps one plan
-- that looks each account up, because OFFSET 0 leaves the planner nothing else, however large the ledger.
-- Balance < floor + holds says available < floor without a sum that could leave 64 bits.
create function entries_checked() returns trigger language plpgsql as $$
declare
    wrong record;
begin
    if (select count(*) from (select from fresh limit 501) few) > 500 then
        execute $large$
            select seq, low, missing from (
                select f.seq,
                       bool_or(a.account_no is null) as missing,
                       bool_or(a.normal * (f.posted_debits - f.posted_credits)
                               < a.floor + case when a.normal = 1 then f.pending_credits
                                                else f.pending_debits end
                               and is_last(f.ledger_no, f.account_no, f.version, f.seq)) as low,
                       sum(f.amount) as booked,
                       sum(f.held) as held
                  from fresh f
                  left join accounts a on a.ledger_no = f.ledger_no and a.account_no = f.account_no
                 group by f.ledger_no, f.seq, a.currency
            ) checked
            where missing or low or booked <> 0 or held <> 0
            limit 1
        $large$ into wrong;
    else
        select seq, low, missing into wrong from (
            select f.seq,
                   bool_or(a.account_no is null) as missing,
                   bool_or(a.normal * (f.posted_debits - f.posted_credits)
                           < a.floor + case when a.normal = 1 then f.pending_credits
                                            else f.pending_debits end
                           and is_last(f.ledger_no, f.account_no, f.version, f.seq)) as low,
                   sum(f.amount) as booked,
                   sum(f.held) as held
              from fresh f
              left join lateral (
                  select account_no, normal, floor, currency from accounts
                   where ledger_no = f.ledger_no and account_no = f.account_no offset 0
              ) a on true
             group by f.ledger_no, f.seq, a.currency
        ) checked
        where missing or low or booked <> 0 or held <> 0
        limit 1;
    end if;
    if wrong.seq is not null then
        raise exception using
            errcode = 'check_violation',
            constraint = case when wrong.missing then 'entries_have_accounts'
                              when wrong.low then 'available_above_floor'
                              else 'entries_balanced' end,
            table = 'entries',
            message = format('transaction %s breaks a rule of the ledger', wrong.seq);
    end if;
    return null;
end;
$$;
create trigger entries_checked after insert on entries
    referencing new table as fresh for each statement execute function entries_checked();
alter table entries enable always trigger entries_checked;

create function history_is_immutable() returns trigger language plpgsql as $$
begin
    raise exception using
        errcode = 'restrict_violation',
        message = format('%s rows are history: nothing changes or removes them', tg_table_name);
end;
$$;
create trigger journal_is_immutable before update or delete or truncate on journal
    for each statement execute function history_is_immutable();
alter table journal enable always trigger journal_is_immutable;
create trigger entries_are_immutable before update or delete or truncate on entries
    for each statement execute function history_is_immutable();
alter table entries enable always trigger entries_are_immutable;

-- As-of questions: versions and sequence numbers are dense and what is asked for never falls along them, so
-- the place is found by probing the primary key. Every other probe interpolates (history is even enough that
-- a few probes find it among millions), the ones between halve, so that twice log2(n) bounds the worst.
-- A search keeps value(low) <= upto < value(high); nothing asked for later than the newest needs a search.
create function probe_at(low bigint, high bigint, share double precision, step integer) returns bigint
    language sql immutable parallel safe as $$
    select greatest(low + 1, least(high - 1, low + case
        when step % 2 = 1 then (high - low) / 2
        else ((high - low) * share)::bigint
    end))
$$;

-- Where a moment lies between two others: 0 at the first, 1 at the second; between equals, nowhere, so 0.
create function share_of(wanted float8, low_at timestamptz, high_at timestamptz) returns float8
    language sql immutable parallel safe as $$
    select case when high_at > low_at
        then (wanted - extract(epoch from low_at)::float8)
             / (extract(epoch from high_at)::float8 - extract(epoch from low_at)::float8)
        else 0 end
$$;

create function version_at_seq(ledger integer, account integer, upto bigint) returns bigint
    language plpgsql stable as $$
declare
    low bigint := 1;
    low_seq bigint;
    high bigint;
    high_seq bigint;
    middle bigint;
    middle_seq bigint;
    step integer := 0;
begin
    select version, seq into high, high_seq from entries
     where ledger_no = ledger and account_no = account order by version desc limit 1;
    if high is null or high_seq <= upto then
        return coalesce(high, 0);
    end if;
    select seq into low_seq from entries where ledger_no = ledger and account_no = account and version = 1;
    if low_seq > upto then
        return 0;
    end if;
    while high - low > 1 loop
        middle := probe_at(low, high, (upto - low_seq)::float8 / (high_seq - low_seq), step);
        select seq into middle_seq from entries
         where ledger_no = ledger and account_no = account and version = middle;
        if middle_seq <= upto then
            low := middle;
            low_seq := middle_seq;
        else
            high := middle;
            high_seq := middle_seq;
        end if;
        step := step + 1;
    end loop;
    return low;
end;
$$;

create function version_at_value_date(ledger integer, account integer, upto timestamptz) returns bigint
    language plpgsql stable as $$
declare
    wanted float8 := extract(epoch from upto);
    low bigint := 1;
    low_at timestamptz;
    high bigint;
    high_at timestamptz;
    middle bigint;
    middle_at timestamptz;
    step integer := 0;
begin
    select version, effective_max into high, high_at from entries
     where ledger_no = ledger and account_no = account order by version desc limit 1;
    if high is null or high_at <= upto then
        return coalesce(high, 0);
    end if;
    select effective_max into low_at from entries
     where ledger_no = ledger and account_no = account and version = 1;
    if low_at > upto then
        return 0;
    end if;
    while high - low > 1 loop
        middle := probe_at(low, high, share_of(wanted, low_at, high_at), step);
        select effective_max into middle_at from entries
         where ledger_no = ledger and account_no = account and version = middle;
        if middle_at <= upto then
            low := middle;
            low_at := middle_at;
        else
            high := middle;
            high_at := middle_at;
        end if;
        step := step + 1;
    end loop;
    return low;
end;
$$;

create function seq_at_time(ledger integer, upto timestamptz) returns bigint
    language plpgsql stable as $$
declare
    wanted float8 := extract(epoch from upto);
    low bigint := 1;
    low_at timestamptz;
    high bigint;
    high_at timestamptz;
    middle bigint;
    middle_at timestamptz;
    step integer := 0;
begin
    select seq, recorded_at into high, high_at from journal where ledger_no = ledger order by seq desc limit 1;
    if high is null or high_at <= upto then
        return coalesce(high, 0);
    end if;
    select recorded_at into low_at from journal where ledger_no = ledger and seq = 1;
    if low_at > upto then
        return 0;
    end if;
    while high - low > 1 loop
        middle := probe_at(low, high, share_of(wanted, low_at, high_at), step);
        select recorded_at into middle_at from journal where ledger_no = ledger and seq = middle;
        if middle_at <= upto then
            low := middle;
            low_at := middle_at;
        else
            high := middle;
            high_at := middle_at;
        end if;
        step := step + 1;
    end loop;
    return low;
end;
$$;
