"""Other issuers: what the file may say, and how their keys are fetched, kept and given up."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from finflow.identity import issuers
from finflow.identity.issuers import OLD_AFTER_S, REFETCH_S, USELESS_AFTER_S, RemoteKeys, read_file
from finflow.kernel.errors import FinFlowError

NOW = 1_800_000_000.0
GOOD = """
[[issuer]]
name = "corporate"
issuer = "https://login.example"
audience = "https://bank.example"
jwks_uri = "https://login.example/jwks"
tenant_claim = "finflow_tenant"
algorithms = ["RS256"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "issuers.toml"
    path.write_text(text)
    return path


def test_a_file_says_whom_to_believe_and_administration_is_never_given_by_default(tmp_path: Path) -> None:
    [described] = read_file(written(tmp_path, GOOD))
    assert described.name == "corporate"
    assert "admin" not in described.scopes
    believed = issuers.issuer_of(described)
    assert believed.trust.operator is False
    assert believed.trust.name == "corporate:"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://login.example/jwks", "http://login.example/jwks"),
        ("https://login.example/jwks", "file:///etc/passwd"),
        ('["RS256"]', '["HS256"]'),
        ('["RS256"]', '["none"]'),
        ('["RS256"]', "[]"),
        ('tenant_claim = "finflow_tenant"', ""),
        ('tenant_claim = "finflow_tenant"', 'tenant = "ten_x"'),
        ('tenant_claim = "finflow_tenant"', 'tenant_claim = "a"\noperator = true'),
        ('name = "corporate"', 'name = "a b"'),
        ('name = "corporate"', 'name = ""'),
        ('audience = "https://bank.example"', 'audience = ""'),
        ('audience = "https://bank.example"', ""),
        ('name = "corporate"', 'name = "corporate"\nsurplus = 1'),
        ('name = "corporate"', 'name = "corporate"\nscopes = ["everything"]'),
        ('name = "corporate"', 'name = "corporate"\nmax_lifetime_s = 100000'),
        (GOOD, GOOD + GOOD),
        (GOOD, "[["),
        (GOOD, ""),
    ],
)
def test_a_file_that_says_something_unsafe_is_refused(tmp_path: Path, old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(FinFlowError) as caught:
        read_file(written(tmp_path, GOOD.replace(old, new)))
    assert caught.value.kind.code == "setting_malformed"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FinFlowError, match="setting_malformed"):
        read_file(tmp_path / "nothing.toml")


class Server:
    """Answers with a JWK set, or with what it is told; counts how often it is asked."""

    def __init__(self, *keys: Any) -> None:
        self.jwks: list[Any] = [key.as_dict(private=False) for key in keys]
        self.error: Exception | None = None
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, uri: str) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return json.dumps({"keys": self.jwks}).encode()


def named(kid: str, key: Any = None) -> Any:
    key = key or OKPKey.generate_key("Ed25519")
    return type(key).import_key(key.as_dict(private=True) | {"kid": kid})


def keys(server: Server, *algorithms: str) -> RemoteKeys:
    return RemoteKeys("https://login.example/jwks", frozenset(algorithms or ("EdDSA",)), server)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_keys_are_fetched_once_for_many_and_kept() -> None:
    server = Server(named("a"))
    server.gate.clear()
    remote = keys(server)
    asking = [asyncio.create_task(remote.find("a", NOW)) for _ in range(20)]
    await settled()
    asking[0].cancel()
    server.gate.set()
    await settled()
    found = await asyncio.gather(*asking[1:])
    assert all(key is not None and key.kid == "a" for key in found)
    assert await remote.find("a", NOW + 1) is not None
    assert server.asked == 1


async def test_an_unknown_name_asks_again_but_not_more_often_than_it_may() -> None:
    server = Server(named("a"))
    remote = keys(server)
    for step in range(50):
        assert await remote.find("b", NOW + step * 0.1) is None
    assert server.asked == 1
    server.jwks.append(named("b").as_dict(private=False))
    assert await remote.find("b", NOW + REFETCH_S) is not None
    assert server.asked == 2


async def test_old_keys_serve_while_new_ones_are_fetched_and_while_the_server_is_away() -> None:
    server = Server(named("a"))
    remote = keys(server)
    await remote.find("a", NOW)
    server.error = OSError("away")
    at = NOW + OLD_AFTER_S + 1
    while at < NOW + USELESS_AFTER_S - 1000:
        assert await remote.find("a", at) is not None
        await settled()
        at += 3600
    assert server.asked > 2
    assert await remote.find("a", NOW + USELESS_AFTER_S + 1) is None, "not for ever"
    server.error = None
    assert await remote.find("a", NOW + USELESS_AFTER_S + 1 + REFETCH_S) is not None


async def test_a_key_that_was_taken_out_is_gone_after_the_next_fetch() -> None:
    server = Server(named("a"), named("b"))
    remote = keys(server)
    assert await remote.find("a", NOW) is not None
    del server.jwks[0]
    await remote.find("b", NOW + OLD_AFTER_S + 1)
    await settled()
    assert await remote.find("a", NOW + OLD_AFTER_S + 2) is None
    assert await remote.find("b", NOW + OLD_AFTER_S + 2) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": 7}', b"<html>", b"\xff"])
async def test_nonsense_instead_of_keys_changes_nothing(content: bytes) -> None:
    server = Server(named("a"))
    answers = [await server("x"), content]

    async def fetch(uri: str) -> bytes:
        return answers.pop(0)

    remote = RemoteKeys("https://login.example/jwks", frozenset(("EdDSA",)), fetch)
    assert await remote.find("a", NOW) is not None
    assert await remote.find("b", NOW + REFETCH_S) is None
    assert await remote.find("a", NOW + REFETCH_S) is not None


async def test_only_public_keys_of_the_pinned_algorithms_are_taken() -> None:
    rsa, ec, ed = (
        named("rsa", RSAKey.generate_key(2048)),
        named("ec", ECKey.generate_key("P-256")),
        named("ed"),
    )
    server = Server(rsa, ec, ed)
    server.jwks += [
        named("secret").as_dict(private=True),
        OctKey.generate_key(256).as_dict(private=True) | {"kid": "oct"},
        named("enc").as_dict(private=False) | {"use": "enc"},
        "no object",
    ]
    remote = keys(server, "RS256", "ES256")
    found = {kid: await remote.find(kid, NOW) for kid in ("rsa", "ec", "ed", "secret", "oct", "enc")}
    assert {kid: key.algorithms for kid, key in found.items() if key is not None} == {
        "rsa": {"RS256"},
        "ec": {"ES256"},
    }


async def test_without_a_name_the_only_key_is_meant() -> None:
    assert await keys(Server(named("a"))).find(None, NOW) is not None
    assert await keys(Server(named("a"), named("b"))).find(None, NOW) is None
