"""Notices by HTTP: a signed webhook, and what speaks like Slack's.

URLs that are secrets never stand in an error: a failure names the notifier, the status, and no more.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from finflow.rollout.checks_spec import SlackSpec, WebhookSpec
from finflow.rollout.notices.delivery import MAX_ASKED_WAIT_S, NotNow, Refused, delivered
from finflow.rollout.notices.model import (
    body_of,
    key_of,
    retry_after_s,
    signature,
    slack_message,
    worth_a_retry,
)
from finflow.rollout.ports import Notice
from finflow.telemetry import outbound

_AGENT: Final = "finflow-rollout"
_MAX_ANSWER_BYTES: Final = 1_000


class Webhook:
    """POSTs the notice as JSON: `Idempotency-Key` names it, `FinFlow-Signature` proves whose it is."""

    def __init__(
        self,
        spec: WebhookSpec,
        url: str,
        secret: bytes | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.name = spec.name
        self._spec = spec
        self._url = url
        self._secret = secret
        self._now_s = now_s

    async def notify(self, notice: Notice) -> None:
        """Deliver it; any answer of 2xx says that it was."""
        body, key = body_of(notice), key_of(notice)

        async def attempt() -> None:
            headers = {"Idempotency-Key": key}
            if self._secret is not None:
                headers["FinFlow-Signature"] = signature(self._secret, int(self._now_s()), body)
            await _post(self._url, body, headers, self._spec.timeout_s)

        await delivered(self.name, attempt, self._spec.within_s)


class Slack:
    """POSTs blocks to an incoming webhook."""

    def __init__(self, spec: SlackSpec, url: str) -> None:
        self.name = spec.name
        self._spec = spec
        self._url = url

    async def notify(self, notice: Notice) -> None:
        """Deliver it."""
        body = msgspec.json.encode(slack_message(notice))
        headers = {"Idempotency-Key": key_of(notice)}

        async def attempt() -> None:
            await _post(self._url, body, headers, self._spec.timeout_s)

        await delivered(self.name, attempt, self._spec.within_s)


async def _post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """One try. Redirects are not followed: notice and signature are for the receiver that was named."""
    sent: dict[str, Any] = {"Content-Type": "application/json", "User-Agent": _AGENT, **headers}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            outbound.session(outbound.origin, timeout=timeout) as session,
            session.post(url, data=body, headers=sent, allow_redirects=False) as answer,
        ):
            if 200 <= answer.status < 300:
                return
            await answer.content.read(_MAX_ANSWER_BYTES)
            if worth_a_retry(answer.status):
                raise NotNow(f"it answered {answer.status}", retry_after_s(answer.headers, MAX_ASKED_WAIT_S))
            raise Refused(f"it answered {answer.status}")
    except aiohttp.InvalidURL:
        raise Refused("its URL is not one") from None
    except TimeoutError:
        raise NotNow(f"there was no answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        # The error's text holds the URL.
        raise NotNow(f"it cannot be reached ({type(error).__name__})") from None
