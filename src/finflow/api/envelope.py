"""What every request gets, whatever it asks: an id, a deadline, a door to pass, safe headers, and a problem
where all else fails. HEAD is GET without its body; OPTIONS needs no handler."""

import asyncio
import itertools
import logging
import re
import secrets
from time import monotonic
from typing import Any, Final, Protocol

from finflow.api.answers import Header
from finflow.api.deadlines import Deadlines
from finflow.api.direct import Routes
from finflow.api.methods import options
from finflow.api.metrics_page import METRICS_PATH, MetricsPage, is_local
from finflow.api.problems import note_failure, problem
from finflow.api.watching import Watch
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import trace_context, tracing
from finflow.telemetry.trace_context import Parent

log = logging.getLogger(__name__)

DEADLINE_S: Final = 30.0
_SAFE: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_NOTHING: Final[tuple[Header, ...]] = ()
_SANE: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class Door(Protocol):
    """What a request passes before anything of its body is read and before a route is looked for."""

    async def enter(self, scope: Any) -> tuple[Header, ...]:
        """Find out who asks, and let them in; headers for the answer. Raises an error of the catalogue."""
        ...

    def leave(self, scope: Any) -> None:
        """The request has been answered, or is gone; called whatever became of `enter`."""
        ...


class Envelope:
    """ASGI around the application: X-Request-Id in, or made; X-Request-Id out; `deadline_s` for all of it."""

    def __init__(
        self,
        app: Any,
        deadline_s: float = DEADLINE_S,
        direct: Routes | None = None,
        door: Door | None = None,
        watch: Watch | None = None,
        metrics: MetricsPage | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._door = door
        self._watch = watch
        self._direct = direct
        self._deadlines = Deadlines(deadline_s)
        # Unique among processes by its random head, among requests by its count; it is no secret.
        self._head = f"req_{secrets.token_hex(8)}"
        self._count = itertools.count(1)

    @property
    def underway(self) -> int:
        """Requests that are being worked at."""
        return len(self._deadlines)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == METRICS_PATH and self._metrics is not None and is_local(scope):
            await self._metrics(scope, receive, send)
            return
        request_id, parent = self._said(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        header, method, watch = (b"x-request-id", request_id.encode()), scope.get("method"), self._watch
        said, status = _NOTHING, 0
        began_s = monotonic()
        runs = watch.begin(scope, parent, began_s) if watch is not None else None
        asked, error_name = scope, None
        if method == "HEAD":
            scope = {**scope, "method": "GET"}

        def send_with_id(message: Any) -> Any:
            nonlocal status, watch
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header, *_SAFE, *said]
                return send(message)
            if method == "HEAD":
                message = {**message, "body": b""}
            if watch is not None and not message.get("more_body"):
                watch.end(asked, status, error_name)
                watch = None
            return send(message)

        token = tracing.enter(runs)
        task = self._deadlines.enter(began_s)
        try:
            if self._door is not None:
                said = await self._door.enter(scope)
            app = None if self._direct is None else self._direct.find(scope["method"], scope["path"])
            if method == "OPTIONS":
                app = options(self._app, scope["path"])
            await (app or self._app)(scope, receive, send_with_id)
        except FinFlowError as error:
            note_failure(scope, error)
            await problem(error, request_id)(scope, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:
            overdue = self._deadlines.ended(task)
            code = "deadline_exceeded" if overdue else "internal"
            error_name = code if overdue else tracing.error_name(error)
            if status or not (overdue or isinstance(error, Exception)):
                raise
            log.error("request failed", exc_info=error, extra={"request_id": request_id, "code": code})
            await problem(FinFlowError(code), request_id)(scope, receive, send_with_id)
        finally:
            self._deadlines.leave(task)
            if self._door is not None:
                self._door.leave(scope)
            if watch is not None:
                watch.end(asked, status, error_name)
            tracing.leave(token)

    def _said(self, headers: Any) -> tuple[str, Parent | None]:
        """The request's id, its own or a new one, and the span that caused it."""
        request_id, parent, state = "", None, b""
        for name, value in headers:
            if name == b"x-request-id":
                request_id = request_id or (value.decode("ascii") if _SANE.fullmatch(value) else "")
            elif name == b"traceparent":
                # Two of them are as good as none; what is split over several `tracestate` is one.
                parent = value if parent is None else b""
            elif name == b"tracestate":
                state = state + b"," + value if state else value
        known = trace_context.parse(parent, state) if parent else None
        return request_id or f"{self._head}{next(self._count):08x}", known
