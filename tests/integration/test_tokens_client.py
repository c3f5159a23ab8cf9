"""Where the client's tokens come from: one request for many callers, ahead of expiry, again when refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from finflow.client.service import Client
from finflow.client.tokens import ClientCredentials, StaticToken
from finflow.kernel.errors import FinFlowError

Json = dict[str, Any]
LEDGERS = {"items": [], "next": None}


class Bank:
    """A token endpoint that counts, and one route that wants the newest token."""

    def __init__(self) -> None:
        self.forms: list[Json] = []
        self.asked: list[str | None] = []
        self.problem: tuple[int, Json] | None = None
        self.lifetime_s = 900
        self.refused: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/oauth/token", self.token)
        app.router.add_get("/v1/ledgers", self.ledgers)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def token(self, request: web.Request) -> web.Response:
        self.forms.append(dict(await request.post()))
        await asyncio.sleep(0.05)
        if self.problem is not None:
            return web.json_response(self.problem[1], status=self.problem[0])
        token = f"token-{len(self.forms)}"
        return web.json_response(
            {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_s}
        )

    async def ledgers(self, request: web.Request) -> web.Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.asked.append(token)
        if token in self.refused:
            return web.json_response({"code": "token_invalid", "detail": "no"}, status=401)
        return web.json_response(LEDGERS)


class Clock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


KEY = OKPKey.generate_key("Ed25519")
PEM = KEY.as_pem(private=True)


def credentials(url: str, clock: Clock, **options: Any) -> ClientCredentials:
    return ClientCredentials(url, "cli_teller", PEM, clock=clock, **options)


async def test_many_callers_share_one_request() -> None:
    bank = Bank()
    async with bank.running() as url:
        provider = credentials(url, Clock())
        tokens = await asyncio.gather(*(provider() for _ in range(50)))
    assert set(tokens) == {"token-1"}
    assert len(bank.forms) == 1


async def test_a_token_is_replaced_before_it_expires_and_not_before() -> None:
    bank, clock = Bank(), Clock()
    async with bank.running() as url:
        provider = credentials(url, clock)
        for at_s, expected in ((0, 1), (800, 1), (811, 2), (1600, 2), (1630, 3)):
            clock.at_s = 1000.0 + at_s
            assert await provider() == f"token-{expected}"


async def test_short_tokens_are_not_fetched_for_every_request() -> None:
    bank, clock = Bank(), Clock()
    bank.lifetime_s = 60
    async with bank.running() as url:
        provider = credentials(url, clock)
        for at_s, expected in ((0, 1), (29, 1), (31, 2)):
            clock.at_s = 1000.0 + at_s
            assert await provider() == f"token-{expected}"


async def test_while_one_fetches_the_others_use_the_token_that_still_lives() -> None:
    bank, clock = Bank(), Clock()
    async with bank.running() as url:
        provider = credentials(url, clock)
        await provider()
        clock.at_s += 850
        tokens = await asyncio.gather(*(provider() for _ in range(10)))
    assert sorted(tokens) == ["token-1"] * 9 + ["token-2"]


async def test_an_endpoint_that_is_away_is_no_matter_while_the_token_lives() -> None:
    bank, clock = Bank(), Clock()
    overloaded = (503, {"code": "database_unreachable", "detail": "x", "retryable": True})
    async with bank.running() as url:
        provider = credentials(url, clock)
        await provider()
        bank.problem = overloaded
        clock.at_s += 850
        assert await provider() == await provider() == "token-1"
        assert len(bank.forms) == 2, "it is not asked again at once"
        clock.at_s += 60
        with pytest.raises(FinFlowError, match="database_unreachable"):
            await provider()
        bank.problem = None
        assert await provider() == "token-4"


async def test_every_request_is_signed_anew_with_the_client_s_key() -> None:
    bank, clock = Bank(), Clock()
    async with bank.running() as url:
        provider = credentials(url, clock, scope="ledgers:read", kid="2026")
        await provider()
        provider.forget()
        await provider()
    assertions = [form["client_assertion"] for form in bank.forms]
    assert len(set(assertions)) == 2
    claims = []
    for text in assertions:
        read = jws.deserialize_compact(text, KEY, algorithms=["EdDSA"])
        assert read.headers()["kid"] == "2026"
        claims.append(json.loads(read.payload))
    assert claims[0]["jti"] != claims[1]["jti"]
    assert {claim["aud"] for claim in claims} == {url}
    assert all(claim["iss"] == claim["sub"] == "cli_teller" for claim in claims)
    assert all(0 < claim["exp"] - claim["iat"] <= 60 for claim in claims)
    assert {form["scope"] for form in bank.forms} == {"ledgers:read"}
    assert {form["grant_type"] for form in bank.forms} == {"client_credentials"}


async def test_a_refused_token_is_replaced_once_and_then_believed_to_be_refused() -> None:
    bank = Bank()
    bank.refused = {"token-1"}
    async with bank.running() as url, Client(url, token=credentials(url, Clock())) as api:
        assert await api.ledgers() == []
        assert bank.asked == ["token-1", "token-2"]
        bank.refused = {f"token-{number}" for number in range(10)}
        with pytest.raises(FinFlowError, match="token_invalid"):
            await api.ledgers()
    assert bank.asked == ["token-1", "token-2", "token-2", "token-3"]


async def test_a_token_from_elsewhere_is_sent_as_it_is() -> None:
    bank = Bank()
    bank.refused = {"mine"}
    async with bank.running() as url, Client(url, token=StaticToken("mine")) as api:
        with pytest.raises(FinFlowError, match="token_invalid"):
            await api.ledgers()
    assert bank.asked == ["mine"]


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        ((401, {"error": "invalid_client", "error_description": "no"}), "client_unauthenticated"),
        ((400, {"error": "invalid_scope"}), "scope_not_granted"),
        ((413, {"code": "request_too_large"}), "request_too_large"),
        ((500, {"code": "something_new"}), "internal"),
    ],
)
async def test_refusals_of_the_token_endpoint_are_told(problem: tuple[int, Json], code: str) -> None:
    bank = Bank()
    bank.problem = problem
    async with bank.running() as url, Client(url, token=credentials(url, Clock())) as api:
        with pytest.raises(FinFlowError) as caught:
            await api.ledgers()
    assert caught.value.kind.code == code
    assert bank.asked == []
    assert len(bank.forms) == 1


async def test_an_endpoint_that_comes_back_is_asked_again() -> None:
    bank = Bank()
    bank.problem = (503, {"code": "database_unreachable", "detail": "x", "retryable": True})

    async def recover() -> None:
        await asyncio.sleep(0.3)
        bank.problem = None

    async with bank.running() as url, Client(url, token=credentials(url, Clock())) as api:
        recovering = asyncio.create_task(recover())
        assert await api.ledgers() == []
        await recovering
    assert len(bank.forms) > 1


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (OKPKey.generate_key("Ed25519"), "EdDSA"),
        (ECKey.generate_key("P-256"), "ES256"),
        (RSAKey.generate_key(2048), "PS256"),
    ],
    ids=["Ed25519", "P-256", "RSA"],
)
async def test_keys_of_every_kind_from_a_file(tmp_path: Path, key: Any, algorithm: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(key.as_pem(private=True))
    bank = Bank()
    async with bank.running() as url:
        await ClientCredentials(url, "cli_teller", file)()
    jws.deserialize_compact(bank.forms[0]["client_assertion"], key, algorithms=[algorithm])


@pytest.mark.parametrize("content", [b"", b"nonsense", KEY.as_pem(private=False), b"-----BEGIN"])
def test_what_is_no_private_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    for source in (file, content):
        with pytest.raises(FinFlowError) as caught:
            ClientCredentials("http://x", "cli_teller", source)
        assert caught.value.kind.code == "file_unreadable"
        assert not content or content.decode() not in caught.value.detail


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FinFlowError, match="No such file"):
        ClientCredentials("http://x", "cli_teller", tmp_path / "nothing.pem")
