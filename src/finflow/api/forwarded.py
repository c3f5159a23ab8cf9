"""Who a request comes from when it came through an ingress of ours: the address that the ingress saw.

The ingress proves itself by a secret that lies in its folder, readable by our user alone, and replaces what
clients send under these names; so nobody who reaches a worker, with or without it, can choose an address.
"""

from collections.abc import Awaitable
from hmac import compare_digest
from typing import Any, Final

PROOF: Final = b"x-finflow-ingress"
_FORWARDED_FOR: Final = b"x-forwarded-for"


class Forwarded:
    """ASGI around an application whose ingress knows the proof."""

    def __init__(self, app: Any, proof: bytes) -> None:
        self._app = app
        self._proof = proof

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "http":
            scope = self._restored(scope)
        answering: Awaitable[None] = self._app(scope, receive, send)
        return answering

    def _restored(self, scope: Any) -> Any:
        """The scope as if the client had come by itself, if the ingress says so; else without the proof.

        The value is `PROOF:REST`, where REST is not empty if the client itself said where it comes from. It
        is behind another proxy then, and must not count as somebody on this machine: its X-Forwarded-For
        stays.
        """
        given, address = b"", b""
        for name, value in scope["headers"]:
            if name == PROOF:
                given = value
            elif name == _FORWARDED_FOR:
                address = value
        if not given:
            return scope
        proof, _, rest = given.partition(b":")
        trusted = compare_digest(proof, self._proof)
        dropped = (PROOF, _FORWARDED_FOR) if trusted and not rest else (PROOF,)
        headers = [each for each in scope["headers"] if each[0] not in dropped]
        if not trusted:
            return {**scope, "headers": headers}
        # What the ingress saw itself stands last, whatever stands before it.
        seen = address.rpartition(b",")[2].strip().decode("latin-1")
        return {**scope, "headers": headers, "client": (seen, 0) if seen else None}
