"""The token endpoint: what a client gets, what it is refused, and that an assertion is good once only."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from oracles import oauth
from oracles.http import Bank, bearer, serving
from oracles.oauth import Json, ask, assertion, public
from oracles.tokens import ISSUER, operator_token, tenant_token


@dataclass
class Party:
    """A tenant, a client of it, and the client's key."""

    bank: Bank
    client_id: str
    key: Any

    @property
    def http(self) -> httpx.AsyncClient:
        return self.bank.client

    async def token(self, **changes: Any) -> httpx.Response:
        return await ask(self.http, assertion(self.client_id, self.key), **changes)


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Party]:
    async with serving(database_url) as client:
        bank = await Bank(client).found()
        key = oauth.key()
        yield Party(bank, await registered(bank, key), key)


async def registered(bank: Bank, key: Any, **fields: Any) -> str:
    body = {"name": "Teller", "scopes": ["ledgers:read", "accounts:read"], "jwk": public(key)}
    headers = bearer(operator_token())
    made = await bank.make("/v1/clients", body | {"tenant_id": bank.tenant_id} | fields, headers)
    return str(made["client_id"])


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and error of an answer in the words of RFC 6749, after checking that it is one."""
    body = answer.json()
    assert set(body) == {"error", "error_description"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.status_code == 401 or "www-authenticate" not in answer.headers
    return answer.status_code, body["error"]


async def test_a_client_gets_a_token_that_opens_what_it_may_open_and_no_more(one: Party) -> None:
    answer = await one.token()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()
    assert (token["token_type"], token["expires_in"]) == ("Bearer", 900)
    assert token["scope"] == "accounts:read ledgers:read"
    headers = bearer(token["access_token"])
    assert (await one.http.get("/v1/ledgers", headers=headers)).status_code == 200
    assert (await one.http.post("/v1/ledgers", json={"name": "x"}, headers=headers)).status_code == 403


async def test_the_token_says_what_rfc_9068_wants_and_another_library_believes_it(one: Party) -> None:
    text = (await one.token(scope="ledgers:read")).json()["access_token"]
    jwks = KeySet.import_key_set((await one.http.get("/.well-known/jwks.json")).json())
    token = jwt.decode(text, jwks, algorithms=["EdDSA"])
    assert token.header["typ"] == "at+jwt"
    claims = token.claims
    assert claims["iss"] == claims["aud"] == ISSUER
    assert claims["sub"] == claims["client_id"] == one.client_id
    assert (claims["scope"], claims["tenant"]) == ("ledgers:read", one.bank.tenant_id)
    assert claims["exp"] - claims["iat"] == 900
    assert abs(claims["iat"] - time.time()) < 60


async def test_an_operator_s_client_gets_a_token_without_a_tenant(one: Party) -> None:
    key = oauth.key()
    client_id = await registered(one.bank, key, scopes=["admin"], tenant_id=None)
    token = (await ask(one.http, assertion(client_id, key))).json()["access_token"]
    assert (await one.http.get("/v1/tenants", headers=bearer(token))).status_code == 200
    assert (await one.http.get("/v1/accounts", headers=bearer(token))).status_code in (400, 403)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (OKPKey.generate_key("Ed25519"), "EdDSA"),
        (OKPKey.generate_key("Ed25519"), "Ed25519"),
        (ECKey.generate_key("P-256"), "ES256"),
        (RSAKey.generate_key(2048), "RS256"),
        (RSAKey.generate_key(2048), "PS256"),
    ],
    ids=["EdDSA", "Ed25519", "ES256", "RS256", "PS256"],
)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_every_kind_of_key_can_prove_a_client(one: Party, key: Any, algorithm: str) -> None:
    jwk = public(key) | {"alg": algorithm}
    client_id = await registered(one.bank, key, jwk=jwk)
    answer = await ask(one.http, assertion(client_id, key, {"alg": algorithm}))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("audience", [ISSUER, f"{ISSUER}/oauth/token", [ISSUER, "https://other.example"]])
async def test_the_audience_is_the_issuer_or_its_token_endpoint(one: Party, audience: Any) -> None:
    answer = await ask(one.http, assertion(one.client_id, one.key, aud=audience))
    assert answer.status_code == 200


def now_s() -> int:
    return int(time.time())


_WRONG_CLAIMS: dict[str, Json] = {
    "another audience": {"aud": "https://other.example"},
    "an audience that begins as ours": {"aud": f"{ISSUER}/oauth/token/x"},
    "no audience": {"aud": None},
    "an audience that is a number": {"aud": 7},
    "another issuer": {"iss": "cli_other"},
    "no subject": {"sub": None},
    "a subject that is a list": {"sub": ["cli_other"]},
    "an unknown client": {"iss": "cli_01m82g0ssteh4r000000000002", "sub": "cli_01m82g0ssteh4r000000000002"},
    "no jti": {"jti": None},
    "an empty jti": {"jti": ""},
    "a jti that is a number": {"jti": 7},
    "a jti too long": {"jti": "j" * 256},
    "no exp": {"exp": None},
    "an exp that is text": {"exp": "2100-01-01"},
    "an exp that is true": {"exp": True},
    "an exp in the far future": {"exp": 1e300},
    "expired": {"exp": now_s() - 1, "iat": now_s() - 100},
    "too long a life": {"exp": now_s() + 3700},
    "too long a life, dated back": {"exp": now_s() + 2000, "iat": now_s() - 2000},
    "too long a life, dated ahead": {"exp": now_s() + 3800, "iat": now_s() + 200},
    "no iat and too long a life": {"exp": now_s() + 4000, "iat": None},
    "not valid yet": {"nbf": now_s() + 120, "exp": now_s() + 200},
    "issued in the future": {"iat": now_s() + 120, "exp": now_s() + 200},
}


@pytest.mark.parametrize("changes", _WRONG_CLAIMS.values(), ids=_WRONG_CLAIMS)
async def test_assertions_with_wrong_claims_are_refused(one: Party, changes: Json) -> None:
    answer = await ask(one.http, assertion(one.client_id, one.key, **changes))
    assert refused(answer) == (401, "invalid_client")


async def test_keys_of_others_and_revoked_keys_prove_nothing(one: Party) -> None:
    stranger = await ask(one.http, assertion(one.client_id, oauth.key()))
    assert refused(stranger) == (401, "invalid_client")
    other = oauth.key()
    other_id = await registered(one.bank, other)
    crossed = await ask(one.http, assertion(one.client_id, other))
    assert refused(crossed) == (401, "invalid_client")
    headers = bearer(operator_token())
    [kid] = [
        each["kid"]
        for each in (await one.http.get(f"/v1/clients/{other_id}", headers=headers)).json()["keys"]
    ]
    await one.http.delete(f"/v1/clients/{other_id}/keys/{kid}", headers=headers)
    gone = await ask(one.http, assertion(other_id, other))
    assert refused(gone) == (401, "invalid_client")
    # Who is not there and whose key does not fit hear the same.
    ghost = await ask(one.http, assertion("cli_01m82g0ssteh4r000000000002", other))
    assert ghost.json() == stranger.json() == crossed.json() == gone.json()


async def test_a_revoked_client_gets_no_token(one: Party) -> None:
    answer = await one.http.post(f"/v1/clients/{one.client_id}/revoke", headers=bearer(operator_token()))
    assert answer.status_code == 200
    assert refused(await one.token()) == (401, "invalid_client")


async def test_keys_overlap_in_a_rotation_with_and_without_their_names(one: Party) -> None:
    fresh = oauth.key()
    path = f"/v1/clients/{one.client_id}/keys"
    body = {"jwk": public(fresh) | {"kid": "2027"}}
    added = await one.http.post(path, json=body, headers=bearer(operator_token()))
    assert added.status_code == 201
    for key, header in ((one.key, {}), (fresh, {}), (fresh, {"kid": "2027"})):
        assert (await ask(one.http, assertion(one.client_id, key, header))).status_code == 200
    mistaken = await ask(one.http, assertion(one.client_id, one.key, {"kid": "2027"}))
    assert refused(mistaken) == (401, "invalid_client")


async def test_an_assertion_is_good_once_in_two_workers_and_after_a_restart(
    one: Party, database_url: str
) -> None:
    async with serving(database_url) as elsewhere:
        proof = assertion(one.client_id, one.key)
        answers = await asyncio.gather(*(ask(http, proof) for http in (one.http, elsewhere) * 8))
        assert sorted(answer.status_code for answer in answers) == [200] + [401] * 15
    async with serving(database_url) as restarted:
        assert refused(await ask(restarted, proof)) == (401, "invalid_client")
        # The same `jti` of another client is another one.
        other = oauth.key()
        other_id = await registered(one.bank, other)
        jti = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))["jti"]
        assert (await ask(restarted, assertion(other_id, other, jti=jti))).status_code == 200


async def test_an_access_token_is_no_assertion_and_an_assertion_no_access_token(one: Party) -> None:
    proof = assertion(one.client_id, one.key, {"typ": "JWT"})
    assert (await one.http.get("/v1/ledgers", headers=bearer(proof))).status_code == 401
    # Also not if the client calls it one and names our issuer.
    posing = assertion(
        one.client_id, one.key, {"typ": "at+jwt"}, iss=ISSUER, tenant=one.bank.tenant_id, scope="ledgers:read"
    )
    assert (await one.http.get("/v1/ledgers", headers=bearer(posing))).status_code == 401
    token = tenant_token(one.bank.tenant_id, subject=one.client_id)
    assert refused(await ask(one.http, token)) == (401, "invalid_client")
    assert refused(await ask(one.http, posing)) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grant_type": "authorization_code"}, (400, "unsupported_grant_type")),
        ({"grant_type": "password"}, (400, "unsupported_grant_type")),
        ({"grant_type": None}, (400, "invalid_request")),
        ({"client_assertion_type": "urn:other"}, (401, "invalid_client")),
        ({"client_assertion_type": None}, (401, "invalid_client")),
        ({"client_assertion": None}, (401, "invalid_client")),
        ({"client_assertion": "a.b.c"}, (401, "invalid_client")),
        ({"client_assertion": "x" * 9000}, (401, "invalid_client")),
        ({"scope": "accounts:write"}, (400, "invalid_scope")),
        ({"scope": "ledgers:read admin"}, (400, "invalid_scope")),
        ({"scope": "nothing"}, (400, "invalid_scope")),
        ({"client_id": "cli_01m82g0ssteh4r000000000002"}, (401, "invalid_client")),
        ({"scope": ["ledgers:read", "accounts:read"]}, (400, "invalid_request")),
    ],
    ids=str,
)
async def test_forms_that_are_wrong_are_refused_as_rfc_6749_says(
    one: Party, changes: Json, expected: tuple[int, str]
) -> None:
    assert refused(await one.token(**changes)) == expected


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b'{"grant_type": "client_credentials"}', "application/json"),
        (b"grant_type=client_credentials", "text/plain"),
        (b"&".join(b"a%d=1" % number for number in range(30)), "application/x-www-form-urlencoded"),
        (b"grant_type=\xff", "application/x-www-form-urlencoded"),
        (b"grant_type=%ff", "application/x-www-form-urlencoded"),
        (b"grant_type", "application/x-www-form-urlencoded"),
        (b"", "application/x-www-form-urlencoded"),
    ],
)
async def test_bodies_that_are_no_forms_are_refused(one: Party, content: bytes, media_type: str) -> None:
    answer = await one.http.post("/oauth/token", content=content, headers={"content-type": media_type})
    assert refused(answer) == (400, "invalid_request")


async def test_a_form_has_a_bound(one: Party) -> None:
    answer = await one.token(surplus="x" * 20_000)
    assert answer.status_code == 413


async def test_nobody_s_used_assertions_are_kept_for_ever(one: Party, database_url: str) -> None:
    import asyncpg

    from finflow.db.pool import open_pool
    from finflow.identity.keys import KeyFolder
    from finflow.identity.service import IdentityService
    from oracles.tokens import FOLDER

    await one.token()
    connection = await asyncpg.connect(database_url)
    pool = await open_pool(database_url)
    try:
        assert await connection.fetchval("select count(*) from used_assertions") == 1
        for ahead_s, left in ((300, 1), (1200, 0)):
            later = time.time() + ahead_s
            service = IdentityService(pool, KeyFolder(FOLDER), ISSUER, (), lambda later=later: later)
            await service.desk.sweep()
            assert await connection.fetchval("select count(*) from used_assertions") == left
    finally:
        await pool.close()
        await connection.close()


async def test_the_metadata_and_the_keys_are_there_for_everybody(one: Party) -> None:
    one.http.headers.pop("authorization")
    metadata = (await one.http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == ISSUER
    assert metadata["token_endpoint"] == f"{ISSUER}/oauth/token"
    assert metadata["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    answer = await one.http.get("/.well-known/jwks.json")
    assert metadata["jwks_uri"] == str(answer.url)
    assert answer.headers["cache-control"] == "public, max-age=60"
    for jwk in answer.json()["keys"]:
        assert set(jwk) == {"kid", "kty", "crv", "x", "alg", "use"}, "nothing private"
