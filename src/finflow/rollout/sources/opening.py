"""A source made of what a spec says about metrics."""

import os
from collections.abc import Callable, Mapping, Sequence

from finflow.kernel.errors import FinFlowError
from finflow.rollout.gates_spec import Metrics, PrometheusMetrics, ScrapeMetrics, TrafficMetrics
from finflow.rollout.ports import Endpoint, Source, TrafficLog
from finflow.rollout.sources.prometheus import PrometheusSource
from finflow.rollout.sources.recorded import RecordedSource
from finflow.rollout.sources.scrape import ScrapeSource, Wanted
from finflow.rollout.sources.traffic import TrafficSource
from finflow.rollout.verdicts import Side

Endpoints = Callable[[], Mapping[Side, Sequence[Endpoint]]]


def open_source(
    spec: Metrics, *, releases: Mapping[Side, str], traffic: TrafficLog | None = None,
    endpoints: Endpoints | None = None, environment: Mapping[str, str] | None = None,
) -> Source:  # fmt: skip
    """The source that a spec names. `endpoints` are the processes that run now, by side.

    Raises source_malformed when something is missing that the spec counts on.
    """
    if isinstance(spec, TrafficMetrics):
        if traffic is None:
            raise FinFlowError("source_malformed", "This ingress keeps no log of requests.")
        return TrafficSource(traffic, errors_from_status=spec.errors_from_status)
    if isinstance(spec, ScrapeMetrics):
        return ScrapeSource(Wanted(spec, _values(spec, releases)), _pages(spec, endpoints))
    if isinstance(spec, PrometheusMetrics):
        known = os.environ if environment is None else environment
        url = spec.url or _secret(known, spec.url_env)
        token = None if spec.token_env is None else _secret(known, spec.token_env)
        return PrometheusSource(spec, url, releases, token)
    return RecordedSource(spec.file)


def _secret(environment: Mapping[str, str], name: str | None) -> str:
    value = environment.get(name or "")
    if not value:
        raise FinFlowError("source_malformed", f"The environment variable {name} is not set.")
    return value


def _values(spec: ScrapeMetrics, releases: Mapping[Side, str]) -> dict[Side, str]:
    return {
        Side.BASELINE: spec.baseline_value or releases[Side.BASELINE],
        Side.CANDIDATE: spec.candidate_value or releases[Side.CANDIDATE],
    }


def _pages(spec: ScrapeMetrics, endpoints: Endpoints | None) -> Callable[[], dict[Side, list[str]]]:
    """Which pages to read now: those that are named, otherwise those of the processes."""
    named = {Side.BASELINE: list(spec.baseline_urls), Side.CANDIDATE: list(spec.candidate_urls)}

    def listed() -> dict[Side, list[str]]:
        running = {} if endpoints is None else endpoints()
        pages = {
            side: urls or [f"http://{each.host}:{each.port}{spec.path}" for each in running.get(side, ())]
            for side, urls in named.items()
        }
        if spec.side_label is None:
            return pages
        shared = list(dict.fromkeys(url for urls in pages.values() for url in urls))
        return dict.fromkeys(Side, shared)

    return listed
