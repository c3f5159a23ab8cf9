"""Clients over HTTP: made, listed, given keys, revoked; what a tenant's administrator may see of them."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from finflow.identity.model import SCOPES
from oracles.http import Bank, bearer, code, serving
from oracles.tokens import operator_token, tenant_token

Json = dict[str, Any]


def public(key: Any) -> Json:
    return {name: value for name, value in key.as_dict(private=False).items() if name != "kid"}


def new_client(key: Any = None, **fields: Any) -> Json:
    jwk = public(key or OKPKey.generate_key("Ed25519"))
    return {"name": "Back office", "scopes": ["accounts:read"], "jwk": jwk} | fields


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Bank]:
    """A tenant, asked for by its administrator."""
    async with serving(database_url) as client:
        bank = await Bank(client).found()
        client.headers.update(bearer(tenant_token(bank.tenant_id, *SCOPES)))
        yield bank


async def other_tenant(one: Bank) -> str:
    tenant = await one.make("/v1/tenants", {"name": "Other"}, bearer(operator_token()))
    return str(tenant["tenant_id"])


async def test_a_tenant_s_administrator_makes_reads_and_lists_clients_of_the_tenant(one: Bank) -> None:
    made = await one.make("/v1/clients", new_client(scopes=["transactions:write", "accounts:read"]))
    assert made["tenant_id"] == one.tenant_id
    assert made["scopes"] == ["accounts:read", "transactions:write"]
    assert made["client_id"].startswith("cli_")
    assert [key["algorithm"] for key in made["keys"]] == ["EdDSA"]
    assert (await one.client.get(f"/v1/clients/{made['client_id']}")).json() == made
    second = await one.make("/v1/clients", new_client())
    page = (await one.client.get("/v1/clients", params={"limit": 1})).json()
    assert page["items"] == [made]
    rest = (await one.client.get("/v1/clients", params={"limit": 1, "cursor": page["next"]})).json()
    assert rest == {"items": [second], "next": None}


async def test_another_tenant_s_clients_are_unknown_in_every_verb(one: Bank) -> None:
    made = await one.make("/v1/clients", new_client())
    stranger = bearer(tenant_token(await other_tenant(one), *SCOPES))
    ghost = made["client_id"][:-1] + ("0" if made["client_id"][-1] != "0" else "1")
    kid = made["keys"][0]["kid"]
    key = {"jwk": public(OKPKey.generate_key("Ed25519"))}
    for client_id, headers in ((made["client_id"], stranger), (ghost, {})):
        path = f"/v1/clients/{client_id}"
        answers = [
            await one.client.get(path, headers=headers),
            await one.client.post(f"{path}/revoke", headers=headers),
            await one.client.post(f"{path}/keys", json=key, headers=headers),
            await one.client.delete(f"{path}/keys/{kid}", headers=headers),
        ]
        assert {code(answer) for answer in answers} == {"client_unknown"}
        assert {answer.json()["detail"] for answer in answers} == {f"no client {client_id[:40]!r}"}
    assert (await one.client.get("/v1/clients", headers=stranger)).json()["items"] == []
    assert (await one.client.get(f"/v1/clients/{made['client_id']}")).json() == made


async def test_a_tenant_s_administrator_cannot_make_clients_for_others(
    one: Bank,
) -> None:
    other = await other_tenant(one)
    refused = await one.client.post("/v1/clients", json=new_client(tenant_id=other))
    assert code(refused) == "tenant_unknown"
    made = await one.make("/v1/clients", new_client(tenant_id=None))
    assert made["tenant_id"] == one.tenant_id


async def test_the_operator_makes_clients_for_anybody_and_operators_may_only_administer(one: Bank) -> None:
    operator = bearer(operator_token())
    made = await one.make("/v1/clients", new_client(tenant_id=one.tenant_id), operator)
    assert (await one.client.get(f"/v1/clients/{made['client_id']}")).json() == made
    refused = await one.client.post(
        "/v1/clients", json=new_client(scopes=["accounts:read"]), headers=operator
    )
    assert code(refused) == "scope_not_granted"
    platform = await one.make("/v1/clients", new_client(scopes=["admin"]), operator)
    assert platform["tenant_id"] is None
    listed = (await one.client.get("/v1/clients", headers=operator)).json()["items"]
    assert [each["client_id"] for each in listed] == [made["client_id"], platform["client_id"]]
    assert code(await one.client.get(f"/v1/clients/{platform['client_id']}")) == "client_unknown"


async def test_without_the_scope_admin_nothing_of_clients_is_seen(one: Bank) -> None:
    teller = bearer(tenant_token(one.tenant_id))
    for answer in (
        await one.client.get("/v1/clients", headers=teller),
        await one.client.post("/v1/clients", json=new_client(), headers=teller),
    ):
        assert code(answer) == "scope_insufficient"


async def test_keys_overlap_and_their_number_is_bounded(one: Bank) -> None:
    made = await one.make("/v1/clients", new_client())
    path = f"/v1/clients/{made['client_id']}"
    for _ in range(7):
        jwk = public(OKPKey.generate_key("Ed25519"))
        answer = await one.client.post(f"{path}/keys", json={"jwk": jwk})
        assert answer.status_code == 201
    full = await one.client.post(f"{path}/keys", json={"jwk": public(OKPKey.generate_key("Ed25519"))})
    assert code(full) == "client_keys_full"
    kid = made["keys"][0]["kid"]
    revoked = (await one.client.delete(f"{path}/keys/{kid}")).json()
    again = (await one.client.delete(f"{path}/keys/{kid}")).json()
    assert revoked == again
    assert [key["kid"] for key in revoked["keys"] if key["revoked_at"] is not None] == [kid]
    assert (
        await one.client.post(f"{path}/keys", json={"jwk": public(OKPKey.generate_key("Ed25519"))})
    ).status_code == 201
    assert code(await one.client.delete(f"{path}/keys/nothing")) == "client_key_unknown"


async def test_eight_keys_are_the_most_also_when_they_come_at_once(one: Bank) -> None:
    made = await one.make("/v1/clients", new_client())
    path = f"/v1/clients/{made['client_id']}/keys"
    jwks = [public(OKPKey.generate_key("Ed25519")) for _ in range(12)]
    answers = await asyncio.gather(*(one.client.post(path, json={"jwk": jwk}) for jwk in jwks))
    assert sorted(answer.status_code for answer in answers) == [201] * 7 + [422] * 5


async def test_a_key_s_name_is_given_once_also_after_it_was_revoked(one: Bank) -> None:
    made = await one.make(
        "/v1/clients", new_client(jwk=public(OKPKey.generate_key("Ed25519")) | {"kid": "k1"})
    )
    path = f"/v1/clients/{made['client_id']}/keys"
    again = {"jwk": public(OKPKey.generate_key("Ed25519")) | {"kid": "k1"}}
    assert code(await one.client.post(path, json=again)) == "client_key_taken"
    await one.client.delete(f"{path}/k1")
    assert code(await one.client.post(path, json=again)) == "client_key_taken"


async def test_revoking_is_for_ever_and_may_be_repeated(one: Bank) -> None:
    made = await one.make("/v1/clients", new_client())
    path = f"/v1/clients/{made['client_id']}"
    first = (await one.client.post(f"{path}/revoke")).json()
    assert first["revoked_at"] is not None
    assert (await one.client.post(f"{path}/revoke")).json() == first
    refused = await one.client.post(f"{path}/keys", json={"jwk": public(OKPKey.generate_key("Ed25519"))})
    assert code(refused) == "client_revoked"


def text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


_ED = public(OKPKey.generate_key("Ed25519"))
# From RFC 8032's curve: zero, one and minus one have small order, in proper and improper encodings.
_SMALL = [
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "ff",
    "ed" + "ff" * 30 + "7f",
]


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "OKP", "crv": "Ed25519"},
        {"kty": "OKP", "crv": "Ed25519", "x": text(secrets.token_bytes(31))},
        {"kty": "OKP", "crv": "Ed25519", "x": "no base64!"},
        {"kty": "OKP", "crv": "X25519", "x": _ED["x"]},
        {"kty": "EC", "crv": "P-256", "x": _ED["x"], "y": _ED["x"]},
        public(ECKey.generate_key("P-384")),
        public(ECKey.generate_key("secp256k1")),
        public(RSAKey.generate_key(1024)),
        _ED | {"alg": "HS256"},
        _ED | {"alg": "RS256"},
        _ED | {"use": "enc"},
        _ED | {"key_ops": ["encrypt"]},
        _ED | {"kid": "a/b"},
        _ED | {"kid": "k" * 200},
        *({"kty": "OKP", "crv": "Ed25519", "x": text(bytes.fromhex(point))} for point in _SMALL),
    ],
    # By number: names that hold fresh keys would differ in every process.
    ids=lambda jwk: "-".join(jwk),
)
async def test_keys_that_are_no_good_are_refused(one: Bank, jwk: Json) -> None:
    answer = await one.client.post("/v1/clients", json=new_client() | {"jwk": jwk})
    assert (answer.status_code, code(answer)) == (422, "jwk_malformed")


@pytest.mark.parametrize("extra", [{"d": "AAAA"}, {"k": "AAAA"}, {"p": "AAAA"}])
async def test_a_private_key_is_refused_and_not_told_back(one: Bank, extra: Json) -> None:
    answer = await one.client.post("/v1/clients", json=new_client() | {"jwk": _ED | extra})
    assert answer.status_code == 400
    assert "AAAA" not in answer.text


async def test_symmetric_keys_are_no_keys(one: Bank) -> None:
    answer = await one.client.post("/v1/clients", json=new_client() | {"jwk": {"kty": "oct", "kid": "a"}})
    assert answer.status_code == 400


@pytest.mark.parametrize("fields", [{"scopes": []}, {"scopes": ["everything"]}, {"name": ""}, {"surplus": 1}])
async def test_malformed_clients_are_refused(one: Bank, fields: Json) -> None:
    assert code(await one.client.post("/v1/clients", json=new_client(**fields))) == "request_malformed"


async def test_a_revoked_client_s_token_dies_at_once_here_and_within_seconds_elsewhere(
    one: Bank, database_url: str
) -> None:
    made = await one.make("/v1/clients", new_client(scopes=["ledgers:read"]))
    headers = bearer(tenant_token(one.tenant_id, "ledgers:read", subject=made["client_id"]))
    async with serving(database_url) as elsewhere:

        async def ask(client: httpx.AsyncClient) -> int:
            return (await client.get("/v1/ledgers", headers=headers)).status_code

        assert (await ask(one.client), await ask(elsewhere)) == (200, 200)
        await one.client.post(f"/v1/clients/{made['client_id']}/revoke")
        assert await ask(one.client) == 401
        deadline = time.monotonic() + 5
        while await ask(elsewhere) == 200:
            assert time.monotonic() < deadline, "the token lives on"
            await asyncio.sleep(0.05)
        assert await ask(elsewhere) == 401
