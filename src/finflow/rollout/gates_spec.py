"""What a spec says about numbers: `metrics:`, where they come from, and `gates:`, what they must show."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.\-]{0,63}$")]
MetricName = Annotated[str, Meta(pattern=r"^[a-zA-Z_:][\w:]{0,199}$")]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s@]+$", max_length=2_000)]
EnvironmentName = Annotated[str, Meta(pattern=r"^[A-Z_][A-Z0-9_]{0,99}$")]


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What people write: a word that is not known is refused."""


# --- where numbers come from


class TrafficMetrics(_Written, frozen=True, tag_field="kind", tag="traffic"):
    """What the ingress logs of each request: for services that measure nothing themselves."""

    errors_from_status: Annotated[int, Meta(ge=100, le=599)] = 500


class ScrapeMetrics(_Written, frozen=True, tag_field="kind", tag="scrape"):
    """Pages in the Prometheus text format, read directly.

    Without URLs the processes of each fleet are asked at `path`. With `side_label` all pages are read for
    both sides, and the label's value says whose a series is: the release's name unless given.
    """

    baseline_urls: tuple[Url, ...] = ()
    candidate_urls: tuple[Url, ...] = ()
    path: Annotated[str, Meta(pattern=r"^/\S*$")] = "/metrics"
    side_label: Name | None = None
    baseline_value: str | None = None
    candidate_value: str | None = None
    requests: MetricName = "http_server_requests_total"
    error_label: Name = "status_class"
    error_pattern: Annotated[str, Meta(max_length=500)] = "5xx|none"
    latency: MetricName | None = "http_server_request_duration_seconds"
    counts: dict[Name, MetricName] = {}
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 2.0

    def __post_init__(self) -> None:
        try:
            re.compile(self.error_pattern)
        except re.error as error:
            raise ValueError(f"error_pattern is not a regular expression: {error}") from error


class SideQueries(_Written, frozen=True):
    """PromQL of totals that only grow; {release} stands for the release's name.

    `buckets` gives one series for each `le`; `seconds` the sum of all durations.
    """

    requests: Annotated[str, Meta(min_length=1, max_length=4_000)]
    errors: Annotated[str, Meta(min_length=1, max_length=4_000)]
    buckets: str | None = None
    seconds: str | None = None
    counts: dict[Name, str] = {}


class PrometheusMetrics(_Written, frozen=True, tag_field="kind", tag="prometheus"):
    """Instant queries to a Prometheus server. A URL or a token that is a secret stands in the environment."""

    baseline: SideQueries
    candidate: SideQueries
    url: Url | None = None
    url_env: EnvironmentName | None = None
    token_env: EnvironmentName | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give one of url and url_env")


class RecordedMetrics(_Written, frozen=True, tag_field="kind", tag="recorded"):
    """Looks that were written down: a file of JSON lines or CSV, one look after the other."""

    file: Annotated[str, Meta(min_length=1, max_length=4_000)]


Metrics = TrafficMetrics | ScrapeMetrics | PrometheusMetrics | RecordedMetrics


# --- what they must show


class _Rule(_Written, frozen=True, tag_field="kind"):
    """`alpha_share`: the part of the whole alpha that the gate may use up, in proportion to the others'."""

    name: Name | None = None
    alpha_share: Positive | None = None
    min_requests: Count | None = None


class ErrorsGate(_Rule, frozen=True, tag="errors"):
    """Requests fail no more often than on the baseline, or than so many times as often.

    Where the source knows customers and enough of them are on the candidate, the first error of each customer
    is counted: with a sticky split one customer's errors all fall on one side. `per_customer` true or false
    fixes it.
    """

    max_odds_ratio: Annotated[float, Meta(ge=1)] = 1.0
    per_customer: bool | None = None


class CustomersGate(_Rule, frozen=True, tag="customers"):
    """No more customers meet their first error than on the baseline."""

    max_odds_ratio: Annotated[float, Meta(ge=1)] = 1.0


class LatencyGate(_Rule, frozen=True, tag="latency"):
    """Requests take no longer than on the baseline, or than so many per cent longer.

    `scale`: `log` compares typical durations (mean logarithms), `seconds` plain means.
    """

    tolerance_percent: NotNegative = 0.0
    scale: Annotated[str, Meta(pattern="^(log|seconds)$")] = "log"


class SlowGate(_Rule, frozen=True, tag="slow"):
    """Requests are slower than the baseline's high quantiles no more often than the baseline's own."""

    quantiles: Annotated[tuple[Share, ...], Meta(min_length=1, max_length=5)] = (0.95, 0.99)
    max_odds_ratio: Annotated[float, Meta(ge=1)] = 1.0


class ShareGate(_Rule, frozen=True, tag="share"):
    """The router sends the declared share to the candidate.

    Without a tolerance it is wide enough for the luck of a sticky split: which customers fell on which side.
    """

    tolerance_percent: Annotated[float, Meta(ge=0, lt=50)] | None = None


class CountsGate(_Rule, frozen=True, tag="counts"):
    """Events of a name, like mismatches or duplicates, happen no more often than on the baseline."""

    counted: Name = "mismatches"
    max_odds_ratio: Annotated[float, Meta(ge=1)] = 1.0


class FloorGate(_Rule, frozen=True, tag="floor"):
    """The candidate's own numbers in this step stay within these, whatever the baseline does."""

    max_error_ratio: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_latency_ms_p99: Positive | None = None

    def __post_init__(self) -> None:
        if self.max_error_ratio is None and self.max_latency_ms_p99 is None:
            raise ValueError("give max_error_ratio, max_latency_ms_p99, or both")


Rule = ErrorsGate | CustomersGate | LatencyGate | SlowGate | ShareGate | CountsGate | FloorGate

DEFAULT_RULES: Final[tuple[Rule, ...]] = (ErrorsGate(), LatencyGate(), SlowGate(), ShareGate())
# Errors hurt most and are rarest, so they get most of what may be used up. Floors bound what is measured,
# not what is inferred, and use up nothing.
_ALPHA_SHARES: Final[dict[type[Rule], float]] = {
    ErrorsGate: 0.80, CustomersGate: 0.80, CountsGate: 0.40, LatencyGate: 0.12, SlowGate: 0.05,
    ShareGate: 0.03, FloorGate: 0.0,
}  # fmt: skip


class Gates(_Written, frozen=True):
    """All gates. `alpha` bounds the probability that a candidate as good as the baseline is ever aborted."""

    alpha: Annotated[float, Meta(gt=0, le=0.2)] = 0.01
    min_requests: Count = 100
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=50)] = DEFAULT_RULES

    def __post_init__(self) -> None:
        names = self.names()
        if len(set(names)) < len(names):
            raise ValueError("give gates of one kind names of their own")

    def names(self) -> tuple[str, ...]:
        """A name for each rule: its own, or its kind."""
        return tuple(rule.name or str(rule.__struct_config__.tag) for rule in self.rules)

    def alphas(self) -> tuple[float, ...]:
        """What each rule may use up; together it is alpha, so that all gates together keep it."""
        shares = [
            _ALPHA_SHARES[type(rule)] if rule.alpha_share is None else rule.alpha_share for rule in self.rules
        ]
        whole = sum(shares)
        return tuple(self.alpha * share / whole if whole else 0.0 for share in shares)

    def least(self, rule: Rule) -> int:
        """Requests of either side in a step below which the rule passes nothing."""
        return rule.min_requests or self.min_requests
