"""Whether a message, or a payment in it, has been here before. Pure: what was seen comes in as a value.

A message is named by its sender, its kind and its message id; a payment by its UETR. The same message
with the same content is a repetition and gets the first one's answer; the same name on other content is
refused. A status or a return carries the UETR of the payment that it speaks of, so each kind has its own.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from finflow.kernel.errors import FinFlowError

_UUID4: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

Verdict = Literal["new", "repeated"]


class MessageKey(msgspec.Struct, frozen=True):
    """What names a message: who sent it, its kind ("pacs.008"), its id."""

    sender: str
    kind: str
    message_id: str


class Seen(msgspec.Struct, frozen=True):
    """What is known of earlier messages: digests by key, and which message brought a UETR, by kind."""

    digests: Mapping[MessageKey, bytes]
    uetrs: Mapping[tuple[str, str], MessageKey]


def check_uetr(text: str, param: str = "UETR") -> str:
    """The text, if it is a UETR: a UUID of version 4 in lower case. Raises uetr_malformed."""
    if _UUID4.fullmatch(text) is None:
        raise FinFlowError("uetr_malformed", f"{text[:60]!r}", param)
    return text


def digest(content: bytes) -> bytes:
    """SHA-256 of a message as it came."""
    return hashlib.sha256(content).digest()


def decide(seen: Seen, key: MessageKey, content_digest: bytes, uetrs: Iterable[str]) -> Verdict:
    """Whether a message is new or a repetition, word for word, of one that was taken.

    Raises message_duplicate if its name is taken by other content, and uetr_duplicate if one of its
    payments came in another message, or comes twice in this one.
    """
    before = seen.digests.get(key)
    if before is not None:
        if before != content_digest:
            raise FinFlowError("message_duplicate", f"{key.message_id!r} of {key.sender!r} was other content")
        return "repeated"
    own: set[str] = set()
    for uetr in uetrs:
        other = seen.uetrs.get((key.kind, uetr))
        if other is not None:
            raise FinFlowError("uetr_duplicate", f"{uetr} came with {other.message_id!r} of {other.sender!r}")
        if uetr in own:
            raise FinFlowError("uetr_duplicate", f"{uetr} comes twice in this message")
        own.add(uetr)
    return "new"
