"""What every request is counted as: by its route's template, its tenant, its answer, its time. And /metrics.

It stands around everything else, so that it counts what is refused before any routing, too. Labels come
from the table of routes alone; nothing that a client sends makes a new one, but for tenants, of which
there is a bound.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from time import perf_counter, time
from typing import Any, Final

from litestar.handlers import HTTPRouteHandler

from finflow.api.answers import Answer
from finflow.telemetry import instruments, tracing
from finflow.telemetry.collecting import Collector
from finflow.telemetry.exposition import Exposition
from finflow.telemetry.metrics import Counter

UNMATCHED: Final = "_unmatched"
NO_TENANT: Final = "none"
_PATH: Final = "/metrics"
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_OTHER_METHOD: Final = "_OTHER"
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for", b"x-real-ip")
_FAILED_FROM: Final = 500


class _Route:
    """The series of one method of one route, bound once; `classes` by the hundreds of the status."""

    __slots__ = ("classes", "duration")

    def __init__(self, method: str, template: str) -> None:
        self.duration = instruments.REQUEST_DURATION.bind(method, template)
        self.classes = tuple(
            instruments.REQUESTS.bind(method, template, each) for each in instruments.STATUS_CLASSES
        )


_Counted = tuple[_Route, float, tracing.Span | None]


def _exemplify(route: _Route, duration_s: float, span: tracing.Span) -> None:
    """Name the request's trace beside its bucket: one that is kept, so that it can be looked up."""
    ids = span.trace.trace_id.to_bytes(16, "big"), span.span_id.to_bytes(8, "big")
    route.duration.exemplify(duration_s, *ids, time())


class Measured:
    """ASGI around the whole application. `exposition` is what /metrics answers: by default this process."""

    def __init__(
        self, app: Any, handlers: Iterable[HTTPRouteHandler], exposition: Exposition | None = None
    ) -> None:
        self._app = app
        self.exposition = exposition or Exposition(Collector(None, instruments.REGISTRY))
        self._templates = Templates(handlers)
        self._routes = {pair: _Route(*pair) for pair in self._templates.pairs}
        self._unmatched = {method: _Route(method, UNMATCHED) for method in (*_METHODS, _OTHER_METHOD)}
        self._tenants: dict[str, tuple[Counter, ...]] = {}
        self._tenant(NO_TENANT)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == _PATH and _is_local(scope):
            await self._metrics(scope, receive, send)
            return
        status = 0
        counted: _Counted | None = None

        def watched(message: Any) -> Any:
            nonlocal status, counted
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body") and counted is None:
                # Before it is sent: whoever has an answer was counted, even if we are killed now.
                counted = self._count(scope, status, perf_counter() - began_s)
            return send(message)

        instruments.active_requests.inc()
        began_s = perf_counter()
        try:
            await self._app(scope, receive, watched)
        finally:
            instruments.active_requests.add(-1)
            if counted is None:
                self._count(scope, status, perf_counter() - began_s)
            else:
                route, duration_s, span = counted
                if span is not None and span.trace.kept is not None:
                    _exemplify(route, duration_s, span)

    def _count(self, scope: Any, status: int, duration_s: float) -> "_Counted":
        """One request more; `status` is 0 where there was no answer."""
        route = self._routes.get((scope["method"], scope["path"])) or self._route(scope)
        route.duration.observe(duration_s)
        route.classes[status // 100 if 100 <= status < 600 else 0].inc()
        state = scope.get("state") or {}
        good, slow, failed = self._tenant(state.get("tenant_id") or NO_TENANT)
        if status == 0 or status >= _FAILED_FROM:
            outcome = failed
        else:
            outcome = good if duration_s <= instruments.OBJECTIVE_S else slow
        outcome.inc()
        return route, duration_s, tracing.current()

    def _route(self, scope: Any) -> _Route:
        """The route of a path with parameters, or of a request that never came to the router."""
        method = scope["method"]
        template = scope.get("path_template") or self._templates.of(scope["path"])
        known = self._routes.get((method, template))
        if known is None and method == "HEAD" and ("GET", template) in self._routes:
            known = self._routes[method, template] = _Route(method, template)
        return known or self._unmatched.get(method) or self._unmatched[_OTHER_METHOD]

    def _tenant(self, tenant_id: str) -> tuple[Counter, ...]:
        known = self._tenants.get(tenant_id)
        if known is None:
            bind = instruments.TENANT_REQUESTS.bind
            known = tuple(bind(tenant_id, outcome) for outcome in instruments.TENANT_OUTCOMES)
            # Those beyond the bound share their series and are not remembered: memory has a bound too.
            if len(self._tenants) < instruments.MAX_TENANTS:
                self._tenants[tenant_id] = known
        return known

    async def _metrics(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await Answer(405, b"", ((b"allow", b"GET, HEAD"),))(scope, receive, send)
            return
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        body, media_type = await self.exposition.render(accept.decode("latin-1"))
        headers = ((b"content-type", media_type.encode()), (b"vary", b"accept"))
        await Answer(200, b"" if scope["method"] == "HEAD" else body, headers)(scope, receive, send)


class Templates:
    """Which template a path belongs to, for requests that no router has seen."""

    def __init__(self, handlers: Iterable[HTTPRouteHandler]) -> None:
        self.pairs = [
            (method, path.replace(":str}", "}"))
            for handler in handlers
            for path in sorted(handler.paths)
            for method in sorted(handler.http_methods)
        ]
        self._by_length: dict[int, list[tuple[list[str], str]]] = {}
        for template in sorted({template for _, template in self.pairs}):
            parts = template.split("/")
            self._by_length.setdefault(len(parts), []).append((parts, template))

    def of(self, path: str) -> str:
        """The template, those without parameters first; `_unmatched` for what is none of ours."""
        parts = path.rstrip("/").split("/")
        fitting = [known for known in self._by_length.get(len(parts), ()) if _fits(known[0], parts)]
        return min(fitting, key=lambda known: known[1].count("{"))[1] if fitting else UNMATCHED


def _fits(template: list[str], parts: list[str]) -> bool:
    return all(
        wanted == part or (part and wanted.startswith("{"))
        for wanted, part in zip(template, parts, strict=True)
    )


def _is_local(scope: Any) -> bool:
    """Whether the caller sits on this machine and speaks for itself: behind a proxy everybody would."""
    client = scope.get("client")
    if not client or any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    try:
        return ip_address(client[0]).is_loopback
    except ValueError:
        return False
