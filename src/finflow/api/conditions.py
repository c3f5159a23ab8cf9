"""Entity tags: `ETag` on what is read, `If-None-Match` to read it once, `If-Match` to change it knowingly.

All tags are strong. An account's has two parts: its settings, which alone a change touches, and the version
of its newest entry. If-Match is held against the settings, because money that moves on a busy account is
no reason to refuse a change of its limits; the ledger compares once more, under its own order of commands.
"""

import re
from hashlib import blake2b
from typing import Final

from finflow.api.answers import JSON, Answer, Header, encode
from finflow.api.decoding import HttpRequest
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Account

_TAGS: Final = re.compile(rb'\s*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,\s*|$))')
_NO_BODY: Final = b""


def account_tag(account: Account) -> bytes:
    """The strong tag of an account's representation."""
    return f'"{account.settings_tag}-{account.version}"'.encode()


def etag(tag: bytes) -> Header:
    return (b"etag", tag)


def read_answer(request: HttpRequest, value: object, tag: bytes | None = None) -> Answer:
    """200 with the value and its tag, made of its bytes if none is given; 304 for who has it already."""
    body = encode(value)
    if tag is None:
        tag = b'"' + blake2b(body, digest_size=12).hexdigest().encode() + b'"'
    if _is_known(request, tag):
        return Answer(304, _NO_BODY, (etag(tag),))
    return Answer(200, body, (JSON, etag(tag)))


def expected_settings(request: HttpRequest, required: bool) -> list[str] | None:
    """The settings that If-Match expects, None for any.

    Raises precondition_required where it is required and missing, request_malformed.
    """
    given = _header(request, b"if-match")
    if given is None:
        if required:
            raise FinFlowError("precondition_required", param="If-Match")
        return None
    if given.strip() == b"*":
        return None
    tags = _read_tags(given)
    if not tags:
        raise FinFlowError("request_malformed", "If-Match is `*` or a list of entity tags.", "If-Match")
    # A weak tag never matches strongly (RFC 9110 section 8.8.3.2): it expects what no account has.
    return ["" if weak else tag.decode("latin-1").rpartition("-")[0] for weak, tag in tags]


def _is_known(request: HttpRequest, tag: bytes) -> bool:
    given = _header(request, b"if-none-match")
    if given is None:
        return False
    return given.strip() == b"*" or any(b'"%b"' % each == tag for _, each in _read_tags(given))


def _read_tags(given: bytes) -> list[tuple[bool, bytes]]:
    """(weak, opaque) of each tag in a list; empty if it is not one."""
    tags: list[tuple[bool, bytes]] = []
    place = 0
    while place < len(given):
        found = _TAGS.match(given, place)
        if found is None:
            return []
        tags.append((found[1] is not None, found[2]))
        place = found.end()
    return tags


def _header(request: HttpRequest, name: bytes) -> bytes | None:
    values = [value for known, value in request.scope["headers"] if known == name]
    return b", ".join(values) if values else None
