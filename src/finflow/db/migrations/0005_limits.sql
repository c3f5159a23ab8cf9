-- What a tenant may do instead of the default: the newest version counts, the older ones say who changed what.
create table tenant_limits (
    tenant_no integer not null references tenants,
    version integer not null check (version > 0),
    changed_at timestamptz not null default now(),
    changed_by text not null check (length(changed_by) between 1 and 255),
    requests_per_s integer check (requests_per_s between 1 and 1000000),
    burst integer check (burst between 1 and 10000000),
    concurrency integer check (concurrency between 1 and 100000),
    primary key (tenant_no, version)
);

-- Workers ask every second or so what changed lately.
create index tenant_limits_by_time on tenant_limits (changed_at);
