"""What every request gets: an id, a deadline, and a problem where all else fails."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

import msgspec
import pytest

from finflow.api.deadlines import Deadlines
from finflow.api.decoding import Body, malformed, refuse_nul
from finflow.api.envelope import Envelope
from finflow.api.schemas import NewTransaction
from finflow.kernel.errors import FinFlowError
from finflow.telemetry.trace_context import Parent

Message = dict[str, Any]
App = Callable[[Message, Any, Any], Awaitable[None]]


async def ask(
    app: App, deadline_s: float = 30.0, headers: Sequence[tuple[bytes, bytes]] = (), watch: Any = None
) -> list[Message]:
    """What is sent in answer to a request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "path": "/", "headers": list(headers)}
    await Envelope(app, deadline_s, watch=watch)(scope, receive, send)
    return sent


def problem(sent: list[Message]) -> tuple[int, str]:
    start, body = sent
    decoded = msgspec.json.decode(body["body"])
    assert dict(start["headers"])[b"x-request-id"] == decoded["request_id"].encode()
    return start["status"], decoded["code"]


async def test_an_application_that_hangs_is_stopped_and_answered_for() -> None:
    stopped = asyncio.Event()

    async def hang(scope: Message, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    assert problem(await ask(hang, deadline_s=0.01)) == (504, "deadline_exceeded")
    assert stopped.is_set()


async def test_an_application_that_breaks_is_answered_for() -> None:
    async def break_(scope: Message, receive: Any, send: Any) -> None:
        raise TimeoutError("not the deadline's")

    assert problem(await ask(break_)) == (500, "internal")


async def test_an_answer_that_began_is_not_followed_by_another() -> None:
    async def half(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        await ask(half)


async def test_whoever_else_cancels_a_request_has_cancelled_it() -> None:
    async def hang(scope: Message, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(hang))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_only_what_is_overdue_is_cancelled() -> None:
    deadlines = Deadlines(0.05, tick_s=0.01)
    ended: list[str] = []

    async def work(name: str, until: asyncio.Event) -> None:
        task = deadlines.enter(monotonic())
        try:
            await until.wait()
            ended.append(f"{name} done")
        except asyncio.CancelledError:
            ended.append(f"{name} {'overdue' if deadlines.ended(task) else 'cancelled'}, of {len(deadlines)}")
        finally:
            deadlines.leave(task)

    released, never = asyncio.Event(), asyncio.Event()
    released.set()
    await asyncio.gather(work("quick", released), work("slow", never))
    await work("later", released)
    assert ended == ["quick done", "slow overdue, of 1", "later done"]
    assert len(deadlines) == 0


@pytest.mark.parametrize(
    ("said", "detail", "param"),
    [
        ("Expected `str`, got `int` - at `$.a[3].b`", "Expected `str`, got `int`.", "a[3].b"),
        ("Expected `object`, got `array`", "Expected `object`, got `array`.", None),
        ("Object missing required field `x` - at `$.a`", "Object missing required field `x`.", "a.x"),
        ("Expected `str`, got `int` - at `key in $.m`", "Expected `str`, got `int`.", "m"),
    ],
)
def test_what_msgspec_says_becomes_a_place(said: str, detail: str, param: str | None) -> None:
    error = malformed(msgspec.ValidationError(said))
    assert (error.kind.code, error.detail, error.param) == ("request_malformed", detail, param)


def test_an_amount_that_is_a_number_is_explained() -> None:
    raw = (
        b'{"ledger_id":"l","entries":[{"account_id":"a","direction":"debit","amount":1.5,"currency":"SGD"}]}'
    )
    with pytest.raises(FinFlowError) as caught:
        Body(NewTransaction).decode(raw)
    assert caught.value.param == "entries[0].amount"
    assert "never a JSON number" in caught.value.detail


def test_a_nul_is_found_wherever_it_hides() -> None:
    refuse_nul({"a": ["b", {"c": "d"}], "e": 1})
    with pytest.raises(FinFlowError) as caught:
        refuse_nul({"a": ["b", {"c": "\0"}]})
    assert caught.value.param == "a[1].c"


class Causes:
    """In the place of a watch: what spans its requests were caused by."""

    def __init__(self) -> None:
        self.seen: list[Parent | None] = []

    def begin(self, scope: Message, parent: Parent | None, began_s: float) -> Message:
        self.seen.append(parent)
        return scope

    def end(self, *_: Any) -> None:
        """It is not asked here."""


ONE, OTHER = (f"00-{digit * 32}-{digit * 16}-01".encode() for digit in "12")


@pytest.mark.parametrize(
    ("headers", "cause"),
    [
        ([("traceparent", ONE)], (int("1" * 32, 16), "")),
        ([("traceparent", ONE), ("traceparent", OTHER)], None),
        ([("traceparent", ONE), ("traceparent", ONE), ("traceparent", ONE)], None),
        ([("traceparent", b""), ("traceparent", ONE)], None),
        ([("tracestate", b"a=1")], None),
        (
            [("tracestate", b"a=1,b=2"), ("traceparent", ONE), ("tracestate", b"\tc=3"), ("tracestate", b"")],
            (int("1" * 32, 16), "a=1,b=2,c=3"),
        ),
        (
            [("traceparent", ONE), ("tracestate", b"a=1"), ("tracestate", b"a=2")],
            (int("1" * 32, 16), ""),
        ),
    ],
)
async def test_who_caused_a_request_is_said_once_and_with_what_in_any_number_of_headers(
    headers: list[tuple[str, bytes]], cause: tuple[int, str] | None
) -> None:
    async def answer(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    causes = Causes()
    await ask(answer, headers=[(name.encode(), value) for name, value in headers], watch=causes)
    [parent] = causes.seen
    assert (parent and (parent.trace_id, parent.state)) == cause
