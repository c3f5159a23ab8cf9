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

-- As-of questions: versions and sequence numbers are dense and times never fall along them, so twenty
-- probes of a primary key find the place among a million rows.
create function version_at_seq(ledger integer, account integer, upto bigint) returns bigint
    language plpgsql stable as $$
declare
    low bigint := 0;
    high bigint := coalesce((select version from entries where ledger_no = ledger and account_no = account
                              order by version desc limit 1), 0);
    middle bigint;
begin
    while low < high loop
        middle := (low + high + 1) / 2;
        if (select seq from entries
             where ledger_no = ledger and account_no = account and version = middle) <= upto then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end;
$$;

create function version_at_value_date(ledger integer, account integer, upto timestamptz) returns bigint
    language plpgsql stable as $$
declare
    low bigint := 0;
    high bigint := coalesce((select version from entries where ledger_no = ledger and account_no = account
                              order by version desc limit 1), 0);
    middle bigint;
begin
    while low < high loop
        middle := (low + high + 1) / 2;
        if (select effective_max from entries
             where ledger_no = ledger and account_no = account and version = middle) <= upto then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end;
$$;

create function seq_at_time(ledger integer, upto timestamptz) returns bigint
    language plpgsql stable as $$
declare
    low bigint := 0;
    high bigint := coalesce((select seq from journal where ledger_no = ledger order by seq desc limit 1), 0);
    middle bigint;
begin
    while low < high loop
        middle := (low + high + 1) / 2;
        if (select recorded_at from journal where ledger_no = ledger and seq = middle) <= upto then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end;
$$;
