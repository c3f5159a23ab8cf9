-- Rates and quotes of foreign exchange. Both are history: rows come, and none changes or goes. What became
-- of a quote is not kept here: the journal's accepted row whose target is the quote's number made negative
-- used it, and journal_by_target allows one such row, so there are no two stores to keep in step.

comment on column journal.target is
    'the row that this one resolves or reverses; negative: the number of the quote that it uses up';

create table fx_rates (
    ledger_no   integer     not null references ledgers,
    rate_no     bigint      generated always as identity (maxvalue 274877906943),
    base        text collate "C" not null,
    quote       text collate "C" not null check (quote <> base),
    rate        numeric(24, 12) not null check (rate > 0),
    source      text        not null check (length(source) between 1 and 140),
    observed_at timestamptz not null,
    valid_until timestamptz not null check (valid_until > observed_at),
    recorded_at timestamptz not null,
    primary key (ledger_no, rate_no),
    unique (ledger_no, base, quote, observed_at, source)
);
comment on column fx_rates.rate is 'how much of `quote` one unit of `base` is worth';
-- Both directions of a pair are answered from the same row, so that going there and back gains nothing.
create index fx_rates_newest
    on fx_rates (ledger_no, least(base, quote), greatest(base, quote), observed_at desc, rate_no desc);

create table fx_quotes (
    ledger_no     integer     not null references ledgers,
    quote_no      bigint      generated always as identity (maxvalue 274877906943),
    created_at    timestamptz not null,
    expires_at    timestamptz not null check (expires_at > created_at),
    sell_currency text collate "C" not null,
    sell_exponent smallint    not null,
    sell_minor    bigint      not null check (sell_minor > 0),
    buy_currency  text collate "C" not null check (buy_currency <> sell_currency),
    buy_exponent  smallint    not null,
    buy_minor     bigint      not null check (buy_minor > 0),
    fair_minor    bigint      not null,
    spread_minor  bigint      not null check (spread_minor >= 0),
    rate          numeric     not null check (rate > 0),
    spread_ppm    integer     not null check (spread_ppm between 0 and 999999),
    residue       numeric     not null,
    method        text collate "C" not null check (method in ('direct', 'inverse', 'cross')),
    rate_nos      bigint[]    not null,
    key           text collate "C",
    request       text,
    caller        text        not null,
    primary key (ledger_no, quote_no),
    constraint rounding_not_negative check (fair_minor - buy_minor - spread_minor >= 0)
);
comment on column fx_quotes.fair_minor is 'sell_minor at `rate`, half-even: what the position account is debited';
comment on column fx_quotes.residue is 'what that rounding left of the exact value, in units of the bought currency';
comment on column fx_quotes.rate is 'as it is shown, cut at 18 digits; amounts are computed from the rates in rate_nos, exact';
create unique index fx_quotes_by_key on fx_quotes (ledger_no, key) where key is not null;

create trigger fx_rates_are_immutable before update or delete or truncate on fx_rates
    for each statement execute function history_is_immutable();
alter table fx_rates enable always trigger fx_rates_are_immutable;
create trigger fx_quotes_are_immutable before update or delete or truncate on fx_quotes
    for each statement execute function history_is_immutable();
alter table fx_quotes enable always trigger fx_quotes_are_immutable;

-- Reads run as the reader, who sees the ledger that its connection has entered (0004_tenancy).
grant select on fx_rates, fx_quotes to finflow_reader;
alter table fx_rates enable row level security;
create policy fx_rates_of_reader on fx_rates for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
alter table fx_quotes enable row level security;
create policy fx_quotes_of_reader on fx_quotes for select to finflow_reader
    using (ledger_no = (select entered_ledger()));
