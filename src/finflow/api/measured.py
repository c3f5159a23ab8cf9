"""What every request is counted as: by its route's template, its tenant, its answer, its time.

Labels come from the table of routes alone; nothing that a client sends makes a new one, but for tenants, of
which there is a bound.
"""

from collections.abc import Iterable
from typing import Any, Final

from litestar.handlers import HTTPRouteHandler

from finflow.telemetry import instruments
from finflow.telemetry.metrics import Counter, Histogram

UNMATCHED: Final = "_unmatched"
NO_TENANT: Final = "none"
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_OTHER_METHOD: Final = "_OTHER"
_FAILED_FROM: Final = 500


class _Route:
    """The series of one method of one route, bound once; `classes` by the hundreds of the status."""

    __slots__ = ("classes", "duration")

    def __init__(self, method: str, template: str) -> None:
        self.duration = instruments.REQUEST_DURATION.bind(method, template)
        self.classes = tuple(
            instruments.REQUESTS.bind(method, template, each) for each in instruments.STATUS_CLASSES
        )


class RequestCounts:
    """The series that requests count in, bound once for each route and tenant."""

    def __init__(self, handlers: Iterable[HTTPRouteHandler]) -> None:
        self._templates = Templates(handlers)
        self._routes = {pair: _Route(*pair) for pair in self._templates.pairs}
        self._unmatched = {method: _Route(method, UNMATCHED) for method in (*_METHODS, _OTHER_METHOD)}
        self._tenants: dict[str, tuple[Counter, ...]] = {}
        self._tenant(NO_TENANT)

    def count(self, scope: Any, status: int, duration_s: float) -> Histogram:
        """One request more; `status` is 0 where there was no answer. What its time was counted in."""
        route = self._routes.get((scope["method"], scope["path"])) or self._route(scope)
        tenant_id = scope["state"].get("tenant_id") or NO_TENANT
        good, slow, failed = self._tenants.get(tenant_id) or self._tenant(tenant_id)
        if status == 0 or status >= _FAILED_FROM:
            outcome = failed
        else:
            outcome = good if duration_s <= instruments.OBJECTIVE_S else slow
        answered = route.classes[status // 100 if 100 <= status < 600 else 0]
        route.duration.observe_counted(duration_s, answered, outcome)
        return route.duration

    def _route(self, scope: Any) -> _Route:
        """The route of a path with parameters, or of a request that never came to the router."""
        method = scope["method"]
        template = scope.get("path_template") or self._templates.of(scope["path"])
        known = self._routes.get((method, template))
        if known is None and method == "HEAD" and ("GET", template) in self._routes:
            known = self._routes[method, template] = _Route(method, template)
        return known or self._unmatched.get(method) or self._unmatched[_OTHER_METHOD]

    def _tenant(self, tenant_id: str) -> tuple[Counter, ...]:
        bind = instruments.TENANT_REQUESTS.bind
        bound = tuple(bind(tenant_id, outcome) for outcome in instruments.TENANT_OUTCOMES)
        # Those beyond the bound share their series and are not remembered: memory has a bound too.
        if len(self._tenants) < instruments.MAX_TENANTS:
            self._tenants[tenant_id] = bound
        return bound


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
