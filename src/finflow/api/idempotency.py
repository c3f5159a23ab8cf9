"""Idempotency keys: the header's rules, and the keys of a batch's members."""

import re
import secrets
from typing import Final

from finflow.api.decoding import HttpRequest
from finflow.kernel.errors import FinFlowError

_PRINTABLE: Final = re.compile(r"[\x20-\x7e]{1,255}")


def given_key(request: HttpRequest) -> str | None:
    """The Idempotency-Key header, or None. Raises idempotency_key_malformed."""
    for name, value in request.scope["headers"]:
        if name == b"idempotency-key":
            return checked(value.decode("latin-1"), "Idempotency-Key")
    return None


def required_key(request: HttpRequest) -> str:
    """The Idempotency-Key header. Raises idempotency_key_missing or idempotency_key_malformed."""
    key = given_key(request)
    if key is None:
        raise FinFlowError("idempotency_key_missing", param="Idempotency-Key")
    return key


def key_or_fresh(request: HttpRequest) -> str:
    """The header's key, or a random one for requests that move no money and may come without."""
    return given_key(request) or f"auto-{secrets.token_hex(16)}"


def checked(key: str, param: str) -> str:
    """The key, if it is 1 to 255 printable ASCII characters; else idempotency_key_malformed."""
    if not _PRINTABLE.fullmatch(key):
        raise FinFlowError("idempotency_key_malformed", param=param)
    return key


def member_key(own: str | None, header: str | None, index: int) -> str:
    """A batch member's key: its own, or the header's with the member's index."""
    param = f"transactions[{index}].idempotency_key"
    if own is not None:
        return checked(own, param)
    if header is None:
        raise FinFlowError(
            "idempotency_key_missing", "The member has no key, and there is no Idempotency-Key header.", param
        )
    return checked(f"{header}:{index}", "Idempotency-Key")
