"""Tokens on the real stack: other people's OAuth clients, two workers, rotation under load, kills, logs."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT

from finflow.app import Config, running
from finflow.cli.connect import LocalTokens
from finflow.client.service import Client
from finflow.client.tokens import ClientCredentials
from finflow.identity.keys import LEAD_S, KeyFolder
from finflow.kernel.errors import FinFlowError
from finflow.stack.service import Stack
from oracles import oauth
from oracles.oauth import form, public

_STUBS = Path(__file__).parents[1] / "stubs"


class Place:
    """A stack that runs, a tenant of it, and a client of the tenant with its key."""

    def __init__(self, stack: Stack, config: Config) -> None:
        self.url = stack.url
        self.folder = stack.folder
        self.keys = KeyFolder(config.keys_folder)
        self.tokens = LocalTokens(config, stack.url)
        self.key = oauth.key()
        self.pem: bytes = self.key.as_pem(private=True)
        self.tenant_id = self.client_id = ""

    async def furnish(self) -> "Place":
        async with Client(self.url, token=self.tokens.operator()) as platform:
            self.tenant_id = (await platform.create_tenant("Bank")).tenant_id
            scopes = ["ledgers:read", "ledgers:write"]
            client = await platform.create_client("Teller", scopes, public(self.key), self.tenant_id)
            self.client_id = client.client_id
        return self

    def assertion(self) -> str:
        return oauth.assertion(self.client_id, self.key, aud=self.url)

    async def token(self, proof: str) -> int:
        """The status of one request for a token, over a connection of its own."""
        url = f"{self.url}/oauth/token"
        async with aiohttp.ClientSession() as session, session.post(url, data=form(proof)) as answer:
            return answer.status

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.folder.logs.glob("*.log"))


@asynccontextmanager
async def place(database_url: str, folder: Path, **flags: Any) -> AsyncIterator[Place]:
    given = {"database_url": database_url, "data": str(folder), "workers": 2, "log_level": "debug"} | flags
    config = Config.load(given, {})
    async with running(config, port=0, ingress=None) as stack:
        yield await Place(stack, config).furnish()


@pytest.fixture
async def here(database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with place(database_url, tmp_path / "data") as found:
        yield found


@pytest.mark.filterwarnings("ignore")
async def test_authlib_gets_a_token_and_uses_it(here: Place) -> None:
    endpoint = f"{here.url}/oauth/token"
    async with AsyncOAuth2Client(
        client_id=here.client_id,
        client_secret=here.key,
        token_endpoint_auth_method="private_key_jwt",  # noqa: S106 -- the name of a method
        token_endpoint=endpoint,
        scope="ledgers:read",
    ) as client:
        client.register_client_auth_method(PrivateKeyJWT(endpoint, alg="EdDSA"))
        token = await client.fetch_token(endpoint, grant_type="client_credentials")
        assert token["scope"] == "ledgers:read"
        answer = await client.get(f"{here.url}/v1/ledgers")
        assert (answer.status_code, answer.json()) == (200, {"items": [], "next": None})
        refused = await client.post(f"{here.url}/v1/ledgers", json={"name": "x"})
        assert refused.status_code == 403
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


async def test_a_replayed_assertion_gets_one_token_whichever_worker_it_reaches(here: Place) -> None:
    for _ in range(3):
        proof = here.assertion()
        # Each over a connection of its own, so that the kernel spreads them over the workers.
        statuses = await asyncio.gather(*(here.token(proof) for _ in range(12)))
        assert sorted(statuses) == [200] + [401] * 11


async def test_our_own_client_gets_tokens_by_itself_and_another_after_its_key_was_taken_out(
    here: Place,
) -> None:
    credentials = ClientCredentials(here.url, here.client_id, here.pem)
    async with Client(here.url, token=credentials) as api:
        assert (await api.create_ledger("Retail")).tenant_id == here.tenant_id
        first = await credentials()
        [kid] = here.keys.names()
        here.keys.revoke(kid, time.time())
        await asyncio.sleep(2.5)
        assert len(await api.ledgers()) == 1
        assert await credentials() != first


async def test_a_client_that_is_not_known_hears_so(here: Place) -> None:
    credentials = ClientCredentials(here.url, here.client_id, oauth.key().as_pem(private=True))
    async with Client(here.url, token=credentials) as api:
        with pytest.raises(FinFlowError, match="client_unauthenticated"):
            await api.ledgers()
    async with Client(
        here.url, token=ClientCredentials(here.url, here.client_id, here.pem, scope="admin")
    ) as api:
        with pytest.raises(FinFlowError, match="scope_not_granted"):
            await api.ledgers()


async def test_no_request_is_refused_while_keys_are_rotated_under_load(
    database_url: str, tmp_path: Path
) -> None:
    KeyFolder(tmp_path / "data" / "keys").ensure(time.time() - 10_000)
    # More tokens than one address may ask for: it is not the limit that is tested here.
    async with place(database_url, tmp_path / "data", unverified_per_s=10_000) as here:
        await rotated_under_load(here)


async def rotated_under_load(here: Place) -> None:
    """Keys whose lead is over when they appear: the other worker meets their tokens before it looks."""
    statuses: list[int] = []
    kids: set[str] = set()
    stop = asyncio.Event()

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=here.url) as client:
            while not stop.is_set():
                token = (await client.post("/oauth/token", data=form(here.assertion()))).json()[
                    "access_token"
                ]
                kids.add(kid_of(token))
                for _ in range(3):
                    answer = await client.get("/v1/ledgers", headers={"Authorization": f"Bearer {token}"})
                    statuses.append(answer.status_code)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await asyncio.sleep(1)
    for _ in range(3):
        here.keys.rotate(time.time() - LEAD_S)
        await asyncio.sleep(1.5)
    stop.set()
    await asyncio.gather(*asking)
    assert set(statuses) == {200}
    assert len(kids) == 4, "every key has signed"


def kid_of(token: str) -> str:
    import base64
    import json

    kid: str = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
    return kid


async def test_a_worker_killed_between_the_assertion_and_the_token_has_used_it_up(
    database_url: str, tmp_path: Path
) -> None:
    path = os.pathsep.join(filter(None, (str(_STUBS), os.environ.get("PYTHONPATH", ""))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        flags = {"target": "finflow_dies_minting:application", "workers": 1}
        async with place(database_url, tmp_path / "data", **flags) as dying:
            proof = oauth.assertion(dying.client_id, dying.key, aud="http://bank.example")
            with pytest.raises(aiohttp.ClientError):
                await dying.token(oauth.assertion(dying.client_id, dying.key, aud=dying.url, jti="once"))
    async with place(database_url, tmp_path / "data") as alive:
        again = oauth.assertion(dying.client_id, dying.key, aud=alive.url, jti="once")
        fresh = oauth.assertion(dying.client_id, dying.key, aud=alive.url)
        assert await alive.token(again) == 401
        assert await alive.token(fresh) == 200
        assert await alive.token(proof) == 401


async def test_neither_tokens_nor_assertions_reach_a_log(here: Place) -> None:
    proof = here.assertion()
    async with httpx.AsyncClient(base_url=here.url) as client:
        token = (await client.post("/oauth/token", data=form(proof))).json()["access_token"]
        for text in (token, token[:-2] + "AA", proof, "Bearer " + token):
            await client.get("/v1/ledgers", headers={"Authorization": f"Bearer {text}"})
            await client.get(f"/v1/accounts/{text}", headers={"Authorization": f"Bearer {token}"})
            await client.post("/oauth/token", data=form(text))
            await client.post("/oauth/token", content=text)
        await client.post("/v1/ledgers", json={"name": 7}, headers={"Authorization": f"Bearer {token}"})
    logs = here.logs()
    for secret in (token, proof):
        for part in secret.split("."):
            assert part not in logs
    assert not re.search(r"eyJ[A-Za-z0-9_-]{20}", logs)
    assert not re.search(r"PRIVATE KEY", logs)


async def test_keys_and_their_folder_are_the_owner_s_alone(here: Place) -> None:
    files = list(here.keys.root.glob("*.pem"))
    assert len(files) == 1
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert here.keys.root.stat().st_mode & 0o777 == 0o700
    state = here.folder.state_file.read_text()
    assert "PRIVATE" not in state
