"""What every request is counted in: by its route's template, its tenant, its answer, its time.

Labels come from the table of routes alone; nothing that a client sends makes a new one, but for tenants, of
which there is a bound.
"""

from collections.abc import Iterable
from typing import Any, Final

from litestar.handlers import HTTPRouteHandler

from finflow.telemetry import instruments
from finflow.telemetry.metrics import OTHER, Counter, Histogram

UNMATCHED: Final = "_unmatched"
NO_TENANT: Final = "none"
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_OTHER_METHOD: Final = "_OTHER"
_FAILED_FROM: Final = 500
_FAILED: Final = instruments.TENANT_OUTCOMES.index("failed")

# What the answers of one status on a route count in: their time, their class, and the place of what they are
# for the tenant, 0 where their time decides on that.
Answers = tuple[Histogram, Counter, int]


class RequestCounts:
    """The series that requests count in, bound once for each route and tenant."""

    def __init__(self, handlers: Iterable[HTTPRouteHandler]) -> None:
        self._templates = Templates(handlers)
        self._routes = frozenset(self._templates.pairs)
        # By method, template and status. A path without parameters is its own template.
        self.known_answers: dict[tuple[str, str, int], Answers] = {}
        self.known_outcomes: dict[str | None, tuple[Counter, ...]] = {}
        self.outcomes(None)
        unmatched = [(method, UNMATCHED) for method in (*_METHODS, _OTHER_METHOD)]
        for method, template in (*self._templates.pairs, *unmatched):
            _bound(method, template)

    def answers(self, scope: Any, status: int) -> Answers:
        """What an answer counts in that is not known by its path: that has parameters, or never came to the
        router, or the status is the first of its kind. 0 is no answer."""
        method = scope["method"]
        template = scope.get("path_template") or self._templates.of(scope["path"])
        asked = "GET" if method == "HEAD" else method
        if (method, template) not in self._routes and (asked, template) not in self._routes:
            method, template = method if method in _METHODS else _OTHER_METHOD, UNMATCHED
        found = self.known_answers.get((method, template, status))
        if found is None:
            found = self.known_answers[method, template, status] = _answers(method, template, status)
        return found

    def outcomes(self, tenant_id: str | None) -> tuple[Counter, ...]:
        """The counters of a tenant that is not known yet, or of nobody: good, slow, failed."""
        family, name = instruments.TENANT_REQUESTS, tenant_id or NO_TENANT
        # Those beyond the bound share their series and are not remembered: memory has a bound too.
        has_room = len(self.known_outcomes) < instruments.MAX_TENANTS
        if not has_room:
            name = OTHER
            instruments.REGISTRY.overflowed(family.declaration.name)
        bound = tuple(family.bind(name, outcome) for outcome in instruments.TENANT_OUTCOMES)
        if has_room:
            self.known_outcomes[tenant_id] = bound
        return bound


def _bound(method: str, template: str) -> tuple[Histogram, list[Counter]]:
    """The series of a route, its counters by the hundreds of the status."""
    classes = [instruments.REQUESTS.bind(method, template, each) for each in instruments.STATUS_CLASSES]
    return instruments.REQUEST_DURATION.bind(method, template), classes


def _answers(method: str, template: str, status: int) -> Answers:
    duration, classes = _bound(method, template)
    failed = status == 0 or status >= _FAILED_FROM
    return duration, classes[status // 100 if 100 <= status < 600 else 0], _FAILED if failed else 0


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
