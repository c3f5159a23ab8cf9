"""How a notice looks to each receiver, by which key it is known, and when it is sent again. Pure."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from finflow.rollout.ports import Notice

# What Slack takes of a section, of a field, and of fields.
_MAX_SECTION: Final = 3_000
_MAX_FIELD: Final = 2_000
_MAX_FIELDS: Final = 10
_MAX_SUBJECT: Final = 150


def key_of(notice: Notice) -> str:
    """One key for one event of one rollout, however often it is told: `at` is when it was decided."""
    named = f"{notice.rollout_id}\n{notice.event}\n{notice.at}"
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def body_of(notice: Notice) -> bytes:
    """The JSON that a webhook gets, and a file a line of: the notice and its key."""
    told: dict[str, Any] = {"key": key_of(notice), **msgspec.to_builtins(notice)}
    return msgspec.json.encode(told)


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 of `SECONDS.BODY`, so that an old notice cannot be sent anew."""
    digest = hmac.new(secret, b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def sentence(notice: Notice) -> str:
    """The notice in one line: which service, what happened."""
    return " ".join(f"[{notice.service}] {notice.event}: {notice.text}".split())


def slack_message(notice: Notice) -> dict[str, Any]:
    """Blocks for those who show them, and `text` for the rest: pop-ups, and what speaks like Slack."""
    facts = list(notice.facts.items())[:_MAX_FIELDS]
    blocks: list[dict[str, Any]] = [
        {
            "type": "section",
            "text": _mrkdwn(f"*{_slack(notice.service)}* {_slack(notice.event)}\n{_slack(notice.text)}"),
        }
    ]
    if facts:
        fields = [
            _mrkdwn(f"*{_slack(str(name))}*\n{_slack(_plain(value))}", _MAX_FIELD) for name, value in facts
        ]
        blocks.append({"type": "section", "fields": fields})
    blocks.append(
        {
            "type": "context",
            "elements": [_mrkdwn(_slack(f"{notice.rollout_id} · {notice.at} · {key_of(notice)}"))],
        }
    )
    return {"text": _slack(sentence(notice))[:_MAX_SECTION], "blocks": blocks}


def _mrkdwn(text: str, most: int = _MAX_SECTION) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text[:most]}


def _slack(text: str) -> str:
    """Slack's three control characters: without them no text can mention a channel or hide a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def subject(notice: Notice) -> str:
    """A subject of one line: a line break would begin another header."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", sentence(notice))[:_MAX_SUBJECT]


def letter(notice: Notice) -> str:
    """The text of an e-mail."""
    facts = [f"{name}: {_plain(value)}" for name, value in notice.facts.items()]
    told = [f"service: {notice.service}", f"rollout: {notice.rollout_id}", f"event: {notice.event}"]
    return "\n".join([notice.text, "", *told, f"at: {notice.at}", *facts, ""])


def pauses(within_s: float, first_s: float = 0.5, most_s: float = 15.0) -> list[float]:
    """How long to wait at most before each further try: doubling, as long as it fits the budget."""
    waits: list[float] = []
    wait = first_s
    while sum(waits) + wait <= within_s:
        waits.append(wait)
        wait = min(2 * wait, most_s)
    return waits


def worth_a_retry(status: int) -> bool:
    """Whether an answer says `not now` rather than `not this`."""
    return status in (408, 425, 429) or status >= 500


def retry_after_s(headers: Mapping[str, str], most_s: float) -> float:
    """What a receiver asks for in seconds, within a bound; its dates are not read."""
    text = headers.get("Retry-After", "")
    return min(float(text), most_s) if re.fullmatch(r"\d{1,6}", text) else 0.0
