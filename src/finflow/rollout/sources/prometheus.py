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


class PrometheusSource:
    """Both sides by PromQL. A side whose requests have no series is not known. A Source."""

    def __init__(
        self, spec: PrometheusMetrics, url: str, releases: Mapping[Side, str], token: str | None = None
    ) -> None:
        self._spec = spec
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._releases = releases
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> Mapping[Side, Reading]:
        """Raises source_unreachable and source_malformed."""
        sides = {Side.BASELINE: self._spec.baseline, Side.CANDIDATE: self._spec.candidate}
        found = await asyncio.gather(*(self._side(side, queries) for side, queries in sides.items()))
        return {side: reading for side, reading in zip(sides, found, strict=True) if reading is not None}

    async def _side(self, side: Side, queries: SideQueries) -> Reading | None:
        named = {"requests": queries.requests, "errors": queries.errors, **queries.counts}
        totals, durations = await asyncio.gather(
            asyncio.gather(*(self._total(side, query) for query in named.values())),
            self._durations(side, queries),
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

    async def _durations(self, side: Side, queries: SideQueries) -> Histogram | None:
        if queries.buckets is None:
            return None
        buckets = await self._vector(side, queries.buckets)
        seconds = 0.0 if queries.seconds is None else await self._total(side, queries.seconds)
        return _histogram(buckets, seconds or 0.0)

    async def _total(self, side: Side, query: str) -> float | None:
        found = await self._vector(side, query)
        return sum(value for _, value in found) if found else None

    async def _vector(self, side: Side, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series."""
        release = self._releases[side].replace("\\", r"\\").replace('"', r"\"")
        form = {"query": query.replace("{release}", release)}
        if self._session is None:
            self._session = aiohttp.ClientSession()
        status, body = await ask(
            self._session, "POST", self._url, timeout_s=self._spec.timeout_s, headers=self._headers, form=form
        )
        if status >= 500 or status in (401, 403, 404, 429):
            raise FinFlowError("source_unreachable", f"Prometheus answers {status}.")
        return _parsed(body)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


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
