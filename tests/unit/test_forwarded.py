"""Whose address counts behind an ingress: the one it saw, if it proves itself, and nobody else's word."""

from typing import Any

import pytest

from finflow.api.forwarded import Forwarded

_PROOF = b"d0" * 32
_PEER = ("127.0.0.1", 50_000)


async def _seen(*headers: tuple[bytes, bytes]) -> Any:
    """The scope that the application gets."""
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "http", "client": _PEER, "headers": [(b"host", b"bank"), *headers]}
    await Forwarded(application, _PROOF)(scope, None, None)
    return seen[0]


async def test_the_address_that_the_ingress_saw_is_the_clients() -> None:
    scope = await _seen((b"x-forwarded-for", b"203.0.113.7"), (b"x-finflow-ingress", _PROOF + b":"))
    assert scope["client"] == ("203.0.113.7", 0)
    assert scope["headers"] == [(b"host", b"bank")], "nothing is left to be believed further in"


async def test_of_several_addresses_the_last_was_seen_and_the_others_claimed() -> None:
    scope = await _seen((b"x-forwarded-for", b"10.0.0.1, 203.0.113.7"), (b"x-finflow-ingress", _PROOF + b":"))
    assert scope["client"] == ("203.0.113.7", 0)


async def test_a_client_behind_another_proxy_is_not_on_this_machine() -> None:
    scope = await _seen((b"x-forwarded-for", b"127.0.0.1"), (b"x-finflow-ingress", _PROOF + b":claimed"))
    assert scope["client"] == ("127.0.0.1", 0)
    assert (b"x-forwarded-for", b"127.0.0.1") in scope["headers"], (
        "whoever looks sees that a proxy stands there"
    )


@pytest.mark.parametrize(
    "proof", [b"", b":", b"x:", _PROOF[:-1] + b":", _PROOF + b"0:", b"%s,%s" % (_PROOF, _PROOF)]
)
async def test_without_the_proof_the_peer_is_the_client(proof: bytes) -> None:
    scope = await _seen((b"x-forwarded-for", b"203.0.113.7"), (b"x-finflow-ingress", proof))
    assert scope["client"] == _PEER
    assert (b"x-forwarded-for", b"203.0.113.7") in scope["headers"]


async def test_who_comes_directly_is_left_as_it_is() -> None:
    scope = await _seen()
    assert (scope["client"], scope["headers"]) == (_PEER, [(b"host", b"bank")])
