"""Readings from pages in the Prometheus text format, read directly from the processes of both sides."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import aiohttp

from finflow.kernel.errors import FinFlowError
from finflow.rollout import tallies
from finflow.rollout.gates_spec import ScrapeMetrics
from finflow.rollout.sources.asking import ask
from finflow.rollout.verdicts import Histogram, Reading, Side
from finflow.telemetry import outbound
from finflow.telemetry.samples import Sample, Scrape

Pages = Callable[[], Mapping[Side, Sequence[str]]]

_ACCEPT: Final = {"Accept": "text/plain; version=0.0.4"}
_EXEMPLAR: Final = re.compile(r" # \{[^\n]*$", re.MULTILINE)
# Pages read at the same time, and pages whose totals are remembered.
_AT_ONCE: Final = 16
_MAX_PAGES: Final = 2_000


class Wanted:
    """Which series of a page count, and for whom: a side's label has this value, or every series counts."""

    def __init__(self, spec: ScrapeMetrics, values: Mapping[Side, str]) -> None:
        self.spec = spec
        self._values = values
        self._errors = re.compile(spec.error_pattern)

    def read(self, text: str, side: Side) -> Reading:
        """What a page says of a side. Raises source_malformed."""
        try:
            scrape = Scrape(_EXEMPLAR.sub("", text), 0.0)
            reading = self._reading(scrape, side)
        except (ValueError, KeyError, OverflowError) as error:
            raise FinFlowError("source_malformed", f"The page cannot be read: {error}.") from error
        found = tallies.fault(reading)
        if found is not None:
            raise FinFlowError("source_malformed", f"The page cannot be true: {found}.")
        return reading

    def _labels(self, side: Side) -> dict[str, str]:
        label = self.spec.side_label
        return {} if label is None else {label: self._values[side]}

    def _reading(self, scrape: Scrape, side: Side) -> Reading:
        labels = self._labels(side)
        requests = scrape.of(self.spec.requests, **labels)
        counts = {name: round(scrape.total(metric, **labels)) for name, metric in self.spec.counts.items()}
        errors = [each for each in requests if self._is_error(each)]
        return Reading(_total(requests), _total(errors), self._durations(scrape, labels), counts=counts)

    def _is_error(self, sample: Sample) -> bool:
        return self._errors.fullmatch(sample.labels.get(self.spec.error_label, "")) is not None

    def _durations(self, scrape: Scrape, labels: Mapping[str, str]) -> Histogram | None:
        if self.spec.latency is None:
            return None
        edges, held = scrape.buckets(self.spec.latency, **labels)
        if not edges:
            return None
        # A page without the last, endless bucket has none that lie above.
        counts = [round(each) for each in held] + [0] * (len(edges) + 1 - len(held))
        return Histogram(edges, tuple(counts), scrape.total(f"{self.spec.latency}_sum", **labels))


def _total(samples: Sequence[Sample]) -> int:
    return round(sum(sample.value for sample in samples))


class _Page:
    """The totals of one page over restarts of what answers there."""

    def __init__(self) -> None:
        self._last = tallies.NOTHING
        self.whole: Reading | None = None

    def grow(self, reading: Reading) -> None:
        new, _ = tallies.since(self._last, reading)
        self.whole = tallies.added(self.whole, new)
        self._last = reading


class ScrapeSource:
    """Sums of the pages of each side. A page that is no longer listed keeps what it had. A Source."""

    def __init__(self, wanted: Wanted, pages: Pages) -> None:
        self._wanted = wanted
        self._pages = pages
        self._totals: dict[tuple[Side, str], _Page] = {}

    async def read(self) -> Mapping[Side, Reading]:
        """Raises source_unreachable when a page does not answer, and source_malformed."""
        listed = [(side, url) for side, urls in self._pages().items() for url in urls]
        texts = await self._texts(sorted({url for _, url in listed}))
        # All pages are read before any is counted: a look counts whole or not at all.
        found = [(side, url, self._wanted.read(texts[url], side)) for side, url in listed]
        for side, url, reading in found:
            self._page(side, url).grow(reading)
        return self._sums()

    def _page(self, side: Side, url: str) -> _Page:
        if len(self._totals) >= _MAX_PAGES and (side, url) not in self._totals:
            raise FinFlowError("source_malformed", f"More than {_MAX_PAGES:,} pages were listed.")
        return self._totals.setdefault((side, url), _Page())

    def _sums(self) -> dict[Side, Reading]:
        sums: dict[Side, Reading] = {}
        for (side, _), page in self._totals.items():
            if page.whole is not None:
                sums[side] = tallies.added(sums.get(side), page.whole)
        return sums

    async def _texts(self, urls: Sequence[str]) -> dict[str, str]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def text(session: aiohttp.ClientSession, url: str) -> str:
            async with gate:
                timeout_s = self._wanted.spec.timeout_s
                status, body = await ask(session, "GET", url, timeout_s=timeout_s, headers=_ACCEPT)
            if status != 200:
                raise FinFlowError("source_unreachable", f"{url.partition('?')[0]} answers {status}.")
            return body.decode("utf-8", "replace")

        # Fresh connections each time: at a look a second they cost little, and nobody has to close them.
        async with outbound.session() as session:
            texts = await asyncio.gather(*(text(session, url) for url in urls))
        return dict(zip(urls, texts, strict=True))
