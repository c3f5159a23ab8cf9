-- Programs that may ask for access tokens. What they prove themselves with is a private key that only they
-- have; here are the public halves. A client without a tenant works for the platform's operator.
create table clients (
    client_no  integer generated always as identity (maxvalue 16777215) primary key,
    tenant_no  integer     references tenants,
    name       text        not null check (length(name) between 1 and 200),
    scopes     text[]      not null check (cardinality(scopes) > 0),
    created_at timestamptz not null,
    revoked_at timestamptz
);
create index clients_by_tenant on clients (tenant_no, client_no);
create index clients_by_revocation on clients (revoked_at) where revoked_at is not null;

create table client_keys (
    client_no  integer     not null references clients,
    kid        text collate "C" not null check (length(kid) between 1 and 256),
    jwk        text        not null,
    created_at timestamptz not null,
    revoked_at timestamptz,
    primary key (client_no, kid)
);

-- An assertion is good for one token, in whichever process it arrives and whatever has died since: the row
-- is there before the token is made. Rows go when the assertion could not be used any more.
create table used_assertions (
    client_no  integer     not null references clients,
    jti_hash   bytea       not null check (length(jti_hash) = 32),
    expires_at timestamptz not null,
    primary key (client_no, jti_hash)
);
create index used_assertions_by_expiry on used_assertions (expires_at);
