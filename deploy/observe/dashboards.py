"""Grafana's dashboards, generated: `python deploy/observe/dashboards.py` writes grafana/dashboards/*.json.

A panel is a title, a unit and queries; everything else is the same for all. A test holds the written files
to this one, and runs every query against a Prometheus that scraped a FinFlow under load.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
_RATE = "[$__rate_interval]"
_R = 'release=~"$release"'
_COLUMNS = 24
_HEIGHT = 8

Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One graph: queries are pairs of PromQL and legend; `unit` is Grafana's name of it."""

    title: str
    unit: str
    queries: list[tuple[str, str]]
    about: str = ""
    width: int = 8
    kind: str = "timeseries"
    # Values at which the colour turns, with the colour: the first one from the beginning.
    steps: list[tuple[float | None, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels under headings."""

    uid: str
    title: str
    about: str
    rows: list[tuple[str, list[Panel]]]
    variables: list[Json] = field(default_factory=list)


def rate(metric: str, *labels: str, by: str = "") -> str:
    """The sum of a counter's rates; every selection is of the chosen releases where the metric has one."""
    selected = ",".join([*labels, _R])
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{selected}}}{_RATE}))"


def quantile(share: float, metric: str, *labels: str, by: str = "") -> str:
    """A quantile of a histogram of all processes together."""
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', *labels, by=grouped)})"


def quantiles(metric: str, *labels: str) -> list[tuple[str, str]]:
    """The usual three."""
    return [(quantile(share, metric, *labels), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)]


_POSTING = 'http_request_method="POST",http_route="/v1/transactions"'
_DURATION = "http_server_request_duration_seconds"
_COMMANDS = "finflow_ledger_commands_total"
_TENANTS = "finflow_tenant_requests_total"
_WRITTEN, _GOOD, _FAILED = 'outcome!="failed"', 'outcome="good"', 'status_class=~"5xx|none"'


def _within(edge: str, *labels: str, by: str = "") -> str:
    below = rate(f"{_DURATION}_bucket", *labels, f'le="{edge}"', by=by)
    return f"{below} / {rate(f'{_DURATION}_count', *labels, by=by)}"


TRANSACTIONS = Dashboard(
    "finflow-transactions",
    "FinFlow: transactions",
    "Do transactions go through, how fast, for whom not, and does the new release change it?",
    [
        (
            "Success",
            [
                Panel(
                    "Commands written", "percentunit",
                    [(f"{rate(_COMMANDS, _WRITTEN)} / {rate(_COMMANDS)}", "written")],
                    "Accepted, refused by a rule or answered again: all but those that could not be written.",
                    4, "stat", [(None, "red"), (0.99, "orange"), (0.999, "green")],
                ),
                Panel(
                    "Failed writes in the last hour", "short",
                    [("sum(increase(finflow_ledger_write_failures_total[1h]))", "batches")],
                    "Batches that were given up. Each is logged with its reason.",
                    4, "stat", [(None, "green"), (0.5, "red")],
                ),
                Panel(
                    "Unknown outcomes in the last hour", "short",
                    [("sum(increase(finflow_ledger_unknown_outcomes_total[1h]))", "commands")],
                    "Their callers were told to send the same request again.",
                    4, "stat", [(None, "green"), (0.5, "red")],
                ),
                Panel(
                    "Commands by outcome", "ops", [(rate(_COMMANDS, by="outcome"), "{{outcome}}")], width=12
                ),
                Panel(
                    "Refusals by rule", "ops",
                    [(f"topk(10, {rate('finflow_ledger_refusals_total', by='code')})", "{{code}}")],
                ),
                Panel(
                    "Requests answered with a problem", "reqps",
                    [(f"topk(10, {rate('finflow_http_problems_total', by='code')})", "{{code}}")],
                ),
                Panel(
                    "Posting, by class of answer", "reqps",
                    [(rate("http_server_requests_total", _POSTING, by="status_class"), "{{status_class}}")],
                ),
            ],
        ),
        (
            "Latency of posting",
            [
                Panel("Quantiles", "s", quantiles(_DURATION, _POSTING), width=12),
                Panel(
                    "Share within the objectives", "percentunit",
                    [
                        (_within("0.138", _POSTING), "within 138 ms"),
                        (_within("0.2", _POSTING), "within 200 ms"),
                    ],
                    "Both are edges of the histogram, so these shares are counted, not estimated.", 12,
                ),
            ],
        ),
        (
            "All routes",
            [
                Panel(
                    "Requests", "reqps",
                    [(f"topk(10, {rate(f'{_DURATION}_count', by='http_request_method, http_route')})",
                      "{{http_request_method}} {{http_route}}")],
                    width=12,
                ),
                Panel(
                    "99th percentile", "s",
                    [(f"topk(10, {quantile(0.99, _DURATION, by='http_route')})", "{{http_route}}")],
                    width=12,
                ),
            ],
        ),
        (
            "Tenants",
            [
                Panel(
                    "Requests", "reqps",
                    [(f"topk(10, {rate(_TENANTS, by='tenant')})", "{{tenant}}")], width=12,
                ),
                Panel(
                    "Answered well", "percentunit",
                    [(f"bottomk(10, {rate(_TENANTS, _GOOD, by='tenant')}"
                      f" / {rate(_TENANTS, by='tenant')})", "{{tenant}}")],
                    "Answered without a failure of ours and within 200 ms; the worst ten.", 12,
                ),
            ],
        ),
        (
            "Releases",
            [
                Panel("Requests", "reqps", [(rate(f"{_DURATION}_count", by="release"), "{{release}}")]),
                Panel(
                    "Failed", "percentunit",
                    [(f"{rate('http_server_requests_total', _FAILED, by='release')}"
                      f" / {rate('http_server_requests_total', by='release')}", "{{release}}")],
                ),
                Panel("99th percentile", "s", [(quantile(0.99, _DURATION, by="release"), "{{release}}")]),
            ],
        ),
    ],
)  # fmt: skip

_HOLDS = 'http_request_method="POST",http_route=~"/v1/transactions/.+/(post|void|expire|reverse)"'

SETTLEMENT = Dashboard(
    "finflow-settlement",
    "FinFlow: settlement of holds",
    "Pending transactions on their way to posted, voided or expired; and reversals.",
    [
        (
            "Holds",
            [
                Panel(
                    "Captured, voided, expired, reversed", "reqps",
                    [(rate("http_server_requests_total", _HOLDS, 'status_class="2xx"', by="http_route"),
                      "{{http_route}}")],
                    width=12,
                ),
                Panel(
                    "Refused or failed", "reqps",
                    [(rate("http_server_requests_total", _HOLDS, 'status_class!="2xx"',
                           by="http_route, status_class"), "{{http_route}} {{status_class}}")],
                    width=12,
                ),
                Panel("Quantiles", "s", quantiles(_DURATION, _HOLDS), width=12),
                Panel(
                    "Refusals of captures, voids and reversals", "ops",
                    [(rate("finflow_ledger_refusals_total",
                           'code=~"not_pending|already_.*|not_expired|capture_.*|not_reversible"', by="code"),
                      "{{code}}")],
                    width=12,
                ),
            ],
        ),
    ],
)  # fmt: skip

_BATCH = "finflow_ledger_batch_commands"

LEDGER = Dashboard(
    "finflow-ledger",
    "FinFlow: ledger internals",
    "The group commit, the queue before it, the connections below it.",
    [
        (
            "Group commit",
            [
                Panel(
                    "Commands and batches", "ops",
                    [(rate(f"{_BATCH}_sum"), "commands"), (rate(f"{_BATCH}_count"), "batches")],
                ),
                Panel(
                    "Commands per batch", "short",
                    [(f"{rate(f'{_BATCH}_sum')} / {rate(f'{_BATCH}_count')}", "mean"),
                     (quantile(0.99, _BATCH), "p99")],
                ),
                Panel(
                    "Commands waiting", "short",
                    [(f"sum(finflow_ledger_queued_commands{{{_R}}})", "waiting")],
                ),
                Panel("Wait in the queue", "s", quantiles("finflow_ledger_queue_wait_seconds")),
                Panel("COMMIT", "s", quantiles("finflow_ledger_commit_duration_seconds")),
                Panel(
                    "Write of a batch, retries included", "s",
                    quantiles("finflow_ledger_write_duration_seconds"),
                ),
                Panel(
                    "Batches tried again", "ops",
                    [(rate("finflow_ledger_batch_retries_total", by="reason"), "{{reason}}")],
                    "`void`: another process wrote to the ledger first.", 12,
                ),
                Panel(
                    "Batches given up", "ops",
                    [(rate("finflow_ledger_write_failures_total", by="code"), "{{code}}")], width=12,
                ),
            ],
        ),
        (
            "Connections",
            [
                Panel(
                    "Pools", "short",
                    [("sum by (db_client_connection_state) (db_client_connection_count)",
                      "{{db_client_connection_state}}"), ("sum(db_client_connection_max)", "allowed")],
                ),
                Panel("Wait for a connection", "s", quantiles("db_client_connection_wait_time_seconds")),
                Panel(
                    "Callers waiting, and giving up", "short",
                    [("sum(db_client_connection_pending_requests)", "waiting"),
                     (rate("db_client_connection_timeouts_total"), "gave up per second")],
                ),
            ],
        ),
    ],
)  # fmt: skip

HEALTH = Dashboard(
    "finflow-health",
    "FinFlow: processes and pods",
    "Is it there, does it restart, does it run out of anything?",
    [
        (
            "Presence",
            [
                Panel("Targets up", "short", [('sum(up{job="finflow"})', "up")], "", 4, "stat"),
                Panel(
                    "Workers", "short", [('sum(finflow_processes{role="api"})', "workers")], "", 4, "stat"
                ),
                Panel("Up for", "s", [("time() - min(process_start_time_seconds)", "oldest process")],
                      "", 4, "stat"),
                Panel(
                    "Workers that ended", "short",
                    [("sum by (how) (increase(finflow_worker_ends_total[1h]))", "{{how}}")], width=6,
                ),
                Panel("Version", "short", [("max by (version, python) (finflow_build_info)", "{{version}}")],
                      "", 6, "stat"),
            ],
        ),
        (
            "Use",
            [
                Panel(
                    "Processors", "short",
                    [(rate("process_cpu_seconds_total", by="release"), "{{release}}")],
                ),
                Panel(
                    "Memory", "bytes",
                    [(f"sum by (release) (process_resident_memory_bytes{{{_R}}})", "{{release}}")],
                ),
                Panel(
                    "Open files, of those allowed", "percentunit",
                    [('sum(process_open_fds) / (max(process_max_fds) * sum(finflow_processes{role="api"}))',
                      "open")],
                ),
                Panel("Event loop's lag", "s", quantiles("finflow_event_loop_lag_seconds")),
                Panel("Pauses for garbage", "s", [(rate("python_gc_pause_seconds_sum"), "s per s")],
                      "Seconds of every second that the collector took."),
                Panel(
                    "Requests under way", "short",
                    [(f"sum(http_server_active_requests{{{_R}}})", "requests")],
                ),
                Panel("Threads", "short", [(f"sum(process_threads{{{_R}}})", "threads")], width=12),
                Panel(
                    "Telemetry itself", "short",
                    [('max(scrape_duration_seconds{job="finflow"})', "scrape, seconds"),
                     ("sum(increase(finflow_metrics_overflow_total[1h]))", "label sets without room")],
                    width=12,
                ),
            ],
        ),
    ],
)  # fmt: skip

_CPU = f"sum(rate(process_cpu_seconds_total{{{_R}}}[$window]))"
_MEMORY_GIB = f"sum(avg_over_time(process_resident_memory_bytes{{{_R}}}[$window])) / 2^30"
_HOURLY = f"({_CPU} * $cpu_hour + {_MEMORY_GIB} * $gib_hour)"
_DONE = f'sum(rate({_COMMANDS}{{outcome="accepted",{_R}}}[$window]))'


def _text(name: str, label: str, value: str) -> Json:
    return {
        "name": name, "label": label, "type": "textbox", "query": value,
        "current": {"text": value, "value": value},
        "options": [{"text": value, "value": value, "selected": True}],
    }  # fmt: skip


COST = Dashboard(
    "finflow-cost",
    "FinFlow: cost",
    "What the API's processes use, at the prices above, and what a transaction costs of it.",
    [
        (
            "Trend",
            [
                Panel("Cost per hour", "currencyUSD", [(_HOURLY, "cost per hour")],
                      "Processor and memory that are used, not what is reserved; the database is not in it."),
                Panel("Cost per million transactions", "currencyUSD",
                      [(f"{_HOURLY} / ({_DONE} * 3600) * 1e6", "per million")]),
                Panel(
                    "Transactions per second of processor", "short",
                    [(f"{_DONE} / {_CPU}", "transactions")],
                ),
                Panel("Processors", "short", [(_CPU, "used")], width=12),
                Panel(
                    "Memory, and where it leads", "bytes",
                    [(f"sum(process_resident_memory_bytes{{{_R}}})", "used"),
                     (f"sum(predict_linear(process_resident_memory_bytes{{{_R}}}[$window], 86400))",
                      "in a day, if it goes on like this")],
                    width=12,
                ),
            ],
        ),
    ],
    [
        _text("cpu_hour", "price of a processor and hour", "0.04"),
        _text("gib_hour", "price of a GiB and hour", "0.005"),
        _text("window", "window", "1h"),
    ],
)  # fmt: skip

DASHBOARDS = (TRANSACTIONS, SETTLEMENT, LEDGER, HEALTH, COST)

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_VARIABLES: list[Json] = [
    {"name": "datasource", "label": "source", "type": "datasource", "query": "prometheus"},
    {
        "name": "release", "label": "release", "type": "query", "datasource": _DATASOURCE,
        "query": {"query": "label_values(http_server_requests_total, release)", "refId": "release"},
        "definition": "label_values(http_server_requests_total, release)", "refresh": 2, "sort": 2,
        "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    },
]  # fmt: skip


def rendered(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana imports it."""
    panels: list[Json] = []
    top = 0
    for title, row in dashboard.rows:
        panels.append(_heading(len(panels) + 1, title, top))
        top += 1
        left, tallest = 0, 0
        for panel in row:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + tallest
            place = {"x": left, "y": top, "w": panel.width, "h": _HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, place))
            left, tallest = left + panel.width, _HEIGHT
        top += tallest
    return {
        "uid": dashboard.uid, "title": dashboard.title, "description": dashboard.about, "tags": ["finflow"],
        "schemaVersion": 39, "version": 1, "editable": False, "graphTooltip": 1, "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "templating": {"list": [*_VARIABLES, *dashboard.variables]}, "panels": panels,
    }  # fmt: skip


def _heading(number: int, title: str, top: int) -> Json:
    place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, place: Json) -> Json:
    defaults: Json = {"unit": panel.unit}
    if panel.steps:
        steps = [{"value": value, "color": color} for value, color in panel.steps]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    targets = [
        {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": expression,
         "legendFormat": legend,
         "exemplar": panel.kind == "timeseries" and "_bucket" in expression}
        for place, (expression, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about, "gridPos": place,
        "datasource": _DATASOURCE, "fieldConfig": {"defaults": defaults, "overrides": []}, "targets": targets,
    }  # fmt: skip


def files() -> dict[str, str]:
    """Every file's name under grafana/dashboards, and its text."""
    return {f"{each.uid}.json": json.dumps(rendered(each), indent=2) + "\n" for each in DASHBOARDS}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
