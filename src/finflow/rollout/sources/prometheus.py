"""Readings from a Prometheus server: instant queries of totals."""

import asyncio
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import aiohttp
import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout import tallies
from finflow.rollout.gates_spec import PrometheusMetrics, SideQueries
from finflow.rollout.sources.asking import ask
from finflow.rollout.verdicts import Histogram, Reading, Side
from finflow.telemetry import outbound

_SHOWN: Final = 300


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Result(msgspec.Struct):
    resultType: str  # noqa: N815 - the API's own name
    result: Any


class _Answer(msgspec.Struct):
    status: str
    data: _Result | None = None
    error: str = ""


_decoder: Final = msgspec.json.Decoder(_Answer)


class _Asking:
    """The queries of one side during one reading."""

    def __init__(self, spec: PrometheusMetrics, url: str, headers: Mapping[str, str], release: str) -> None:
        self._spec = spec
        self._url = url
        self._headers = headers
        self._release = release.replace("\\", r"\\").replace('"', r"\"")

    async def total(self, session: aiohttp.ClientSession, query: str) -> float | None:
        """The sum of what a query gives; None where it gives no series."""
        found = await self.vector(session, query)
        return sum(value for _, value in found) if found else None

    async def vector(self, session: aiohttp.ClientSession, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series."""
        form = {"query": query.replace("{release}", self._release)}
        status, body = await ask(
            session, "POST", self._url, timeout_s=self._spec.timeout_s, headers=self._headers, form=form
        )
        if status >= 500 or status in (401, 403, 404, 429):
            raise FinFlowError("source_unreachable", f"Prometheus answers {status}.")
        return _parsed(body)


class PrometheusSource:
    """Both sides by PromQL. A side whose requests have no series is not known. A Source."""

    def __init__(
        self, spec: PrometheusMetrics, url: str, releases: Mapping[Side, str], token: str | None = None
    ) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        where = f"{url.rstrip('/')}/api/v1/query"
        self._queries = {Side.BASELINE: spec.baseline, Side.CANDIDATE: spec.candidate}
        self._asking = {side: _Asking(spec, where, headers, releases[side]) for side in Side}

    async def read(self) -> Mapping[Side, Reading]:
        """Raises source_unreachable and source_malformed."""
        async with outbound.session() as session:
            found = await asyncio.gather(*(self._side(session, side) for side in Side))
        return {side: reading for side, reading in zip(Side, found, strict=True) if reading is not None}

    async def _side(self, session: aiohttp.ClientSession, side: Side) -> Reading | None:
        asking, queries = self._asking[side], self._queries[side]
        named = (queries.requests, queries.errors, *queries.counts.values())
        totals, durations = await asyncio.gather(
            asyncio.gather(*(asking.total(session, query) for query in named)),
            _durations(session, asking, queries),
        )
        requests, errors, *rest = totals
        if requests is None:
            return None
        counts = {name: round(total or 0) for name, total in zip(queries.counts, rest, strict=True)}
        reading = Reading(round(requests), round(errors or 0), durations, counts=counts)
        found = tallies.fault(reading)
        if found is not None:
            raise FinFlowError("source_malformed", f"What Prometheus says of the {side} cannot be: {found}.")
        return reading


async def _durations(
    session: aiohttp.ClientSession, asking: _Asking, queries: SideQueries
) -> Histogram | None:
    if queries.buckets is None:
        return None
    buckets = await asking.vector(session, queries.buckets)
    seconds = 0.0 if queries.seconds is None else await asking.total(session, queries.seconds)
    return _histogram(buckets, seconds or 0.0)


def _parsed(body: bytes) -> list[tuple[dict[str, str], float]]:
    try:
        answer = _decoder.decode(body)
        if answer.status != "success" or answer.data is None:
            raise FinFlowError("source_malformed", f"Prometheus refuses: {answer.error[:_SHOWN]}")
        if answer.data.resultType == "scalar":
            series = [_Series({}, msgspec.convert(answer.data.result, tuple[float, str]))]
        elif answer.data.resultType == "vector":
            series = msgspec.convert(answer.data.result, list[_Series])
        else:
            raise FinFlowError("source_malformed", f"The query gives a {answer.data.resultType}, not totals.")
        found = [(each.metric, float(each.value[1])) for each in series]
    except (msgspec.MsgspecError, ValueError) as error:
        raise FinFlowError("source_malformed", f"Not an answer of Prometheus: {error}.") from error
    if not all(math.isfinite(value) for _, value in found):
        raise FinFlowError("source_malformed", "A query gives NaN or infinity.")
    return found


def _histogram(buckets: list[tuple[dict[str, str], float]], sum_s: float) -> Histogram | None:
    """Cumulative series by `le`, of any number of instances, as counts by bucket."""
    cumulative: dict[float, float] = {}
    for labels, value in buckets:
        try:
            edge = float(labels["le"])
        except (KeyError, ValueError) as error:
            raise FinFlowError("source_malformed", "The query for buckets must keep the label le.") from error
        cumulative[edge] = cumulative.get(edge, 0.0) + value
    edges = tuple(sorted(edge for edge in cumulative if edge != math.inf))
    if not edges:
        return None
    steps = [0.0, *(cumulative[edge] for edge in edges)]
    steps.append(cumulative.get(math.inf, steps[-1]))
    counts = tuple(round(high) - round(low) for low, high in pairwise(steps))
    return Histogram(edges, counts, sum_s)
