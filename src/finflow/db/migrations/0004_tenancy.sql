-- Row-level security as the second lock between tenants. Reads run as the role finflow_reader, which owns
-- nothing, may only select, and sees the rows of the one ledger that its connection has entered; a WHERE
-- that the program forgot then finds nothing of anybody else's. The owner of the tables, who writes, is not
-- bound by policies: COPY FROM is refused where they bind. See docs/adr/0010.

-- A role belongs to the whole cluster: another database of ours may have made it, or be making it now.
do $$
begin
    if not exists (select from pg_roles where rolname = 'finflow_reader') then
        create role finflow_reader nologin nosuperuser nobypassrls;
    end if;
exception when duplicate_object or unique_violation then
    null;
end;
$$;

-- Who made the role, and is no superuser, may not yet become it (since PostgreSQL 16).
do $$
declare
    before text := current_setting('role');
begin
    perform set_config('role', 'finflow_reader', true);
    perform set_config('role', before, true);
exception when insufficient_privilege then
    execute format('grant finflow_reader to %I', current_user);
end;
$$;

do $$
begin
    execute format('grant usage on schema %I to finflow_reader', current_schema());
end;
$$;
grant select on tenants, ledgers, heads, assets, accounts, journal, entries to finflow_reader;

-- What a connection has entered: null, which equals no row's number, before it has entered anything.
create function entered_tenant() returns integer language sql stable parallel safe as $$
    select nullif(current_setting('finflow.tenant_no', true), '')::integer
$$;
create function entered_ledger() returns integer language sql stable parallel safe as $$
    select nullif(current_setting('finflow.ledger_no', true), '')::integer
$$;

-- Enters one ledger of one tenant, until something else is entered, and answers its number: null, and no
-- ledger entered, where the tenant has none of that number. Another tenant's ledger is no ledger here.
create function enter_ledger(tenant integer, ledger integer) returns integer language plpgsql as $$
declare
    found integer;
begin
    perform set_config('finflow.tenant_no', tenant::text, false);
    select ledger_no into found from ledgers where tenant_no = tenant and ledger_no = ledger;
    perform set_config('finflow.ledger_no', coalesce(found::text, ''), false);
    return found;
end;
$$;

alter table tenants enable row level security;
create policy tenants_of_reader on tenants for select to finflow_reader
    using (tenant_no = (select entered_tenant()));
alter table ledgers enable row level security;
create policy ledgers_of_reader on ledgers for select to finflow_reader
    using (tenant_no = (select entered_tenant()));
alter table heads enable row level security;
create policy heads_of_reader on heads for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
alter table assets enable row level security;
create policy assets_of_reader on assets for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
alter table accounts enable row level security;
create policy accounts_of_reader on accounts for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
alter table journal enable row level security;
create policy journal_of_reader on journal for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
alter table entries enable row level security;
create policy entries_of_reader on entries for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
