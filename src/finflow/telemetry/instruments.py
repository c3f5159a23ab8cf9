"""Every metric of the house: its name, what it means, its labels. The reference page is written from it.

Names and units follow OpenTelemetry's semantic conventions where these have one, in Prometheus' spelling;
the rest begins with `finflow_`. Counters get `_total` when they are shown.
"""

from typing import Final

from finflow.kernel.errors import CATALOGUE
from finflow.telemetry.metrics import Counter, Family, Gauge, Histogram, Registry

# The objectives are edges: a share of requests below 0.138 s or 0.2 s is read, not estimated.
REQUEST_EDGES_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.138, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
OBJECTIVE_S: Final = 0.2
_WORK_EDGES_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.138, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
)  # fmt: skip
_LAG_EDGES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PAUSE_EDGES_S: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_BATCH_EDGES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000)
MAX_TENANTS: Final = 1_000
MAX_LEDGER_ERRORS: Final = 50

REGISTRY: Final = Registry()

# --- requests ---

STATUS_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
_ROUTE: Final = ("http_request_method", "http_route")

REQUEST_DURATION: Final = REGISTRY.histogram(
    "http_server_request_duration_seconds",
    "Time from the first look at a request to its whole answer, before that is sent.",
    REQUEST_EDGES_S, _ROUTE, unit="seconds", released=True, exemplars=True,
)  # fmt: skip
REQUESTS: Final = REGISTRY.counter(
    "http_server_requests",
    "Requests by the class of their answer; `none` where the client went away before there was one.",
    (*_ROUTE, "status_class"), released=True,
)  # fmt: skip
ACTIVE_REQUESTS: Final = REGISTRY.gauge(
    "http_server_active_requests",
    "Requests that are being worked at, as of the last quarter of a second.",
    released=True,
)
TENANT_OUTCOMES: Final = ("good", "slow", "failed")
TENANT_REQUESTS: Final = REGISTRY.counter(
    "finflow_tenant_requests",
    f"Requests by tenant: `failed` with 5xx or without an answer, `slow` above {OBJECTIVE_S} s, else `good`.",
    ("tenant", "outcome"), released=True, open_labels=("tenant",), limit=MAX_TENANTS * len(TENANT_OUTCOMES),
)  # fmt: skip
PROBLEMS: Final = REGISTRY.counter(
    "finflow_http_problems",
    "Requests answered with a problem, by the catalogue's code.",
    ("code",),
    released=True,
)

# --- the ledger ---

COMMAND_OUTCOMES: Final = ("accepted", "refused", "replayed", "failed")
COMMANDS: Final = REGISTRY.counter(
    "finflow_ledger_commands",
    "Commands that the group commit answered; `failed` where it could not write them.",
    ("outcome",), released=True,
)  # fmt: skip
REFUSALS: Final = REGISTRY.counter(
    "finflow_ledger_refusals", "Commands refused by a rule of the ledger, by code.", ("code",), released=True
)
UNKNOWN_OUTCOMES: Final = REGISTRY.counter(
    "finflow_ledger_unknown_outcomes",
    "Commands whose outcome could not be found out in time: their callers must ask again.", released=True,
)  # fmt: skip
WRITE_FAILURES: Final = REGISTRY.counter(
    "finflow_ledger_write_failures",
    "Batches that were given up, by the code their callers got.", ("code",), released=True,
)  # fmt: skip
BATCH_RETRIES: Final = REGISTRY.counter(
    "finflow_ledger_batch_retries",
    "Batches tried again: `void` where another process wrote first, `key` where a key was in the journal, "
    "`database` where the database failed.",
    ("reason",), released=True,
)  # fmt: skip
BATCH_SIZE: Final = REGISTRY.histogram(
    "finflow_ledger_batch_commands", "Commands in one committed batch.", _BATCH_EDGES, released=True
)
QUEUE_WAIT: Final = REGISTRY.histogram(
    "finflow_ledger_queue_wait_seconds",
    "Time from a job's arrival to the beginning of its batch's transaction.",
    _WORK_EDGES_S, unit="seconds", released=True,
)  # fmt: skip
WRITE_DURATION: Final = REGISTRY.histogram(
    "finflow_ledger_write_duration_seconds",
    "Time from the beginning of a batch's transaction to its answers, retries included.",
    _WORK_EDGES_S, unit="seconds", released=True,
)  # fmt: skip
COMMIT_DURATION: Final = REGISTRY.histogram(
    "finflow_ledger_commit_duration_seconds",
    "Time that COMMIT took; of a few records, the one statement that writes them and is its own transaction.",
    _WORK_EDGES_S, unit="seconds", released=True,
)  # fmt: skip
QUEUED_COMMANDS: Final = REGISTRY.gauge(
    "finflow_ledger_queued_commands",
    "Commands that wait for their answer, queued or being written.",
    released=True,
)

# --- the database ---

POOL_CONNECTIONS: Final = REGISTRY.gauge(
    "db_client_connection_count", "Connections of the pools, by state.", ("db_client_connection_state",)
)
POOL_MAX: Final = REGISTRY.gauge("db_client_connection_max", "Connections that the pools may open.")
POOL_PENDING: Final = REGISTRY.gauge(
    "db_client_connection_pending_requests", "Callers that wait for a connection."
)
POOL_WAIT: Final = REGISTRY.histogram(
    "db_client_connection_wait_time_seconds", "Time that a caller waited for a connection.",
    _WORK_EDGES_S, unit="seconds", released=True,
)  # fmt: skip
POOL_TIMEOUTS: Final = REGISTRY.counter(
    "db_client_connection_timeouts", "Callers that gave up waiting for a connection.", released=True
)

# --- traces ---

SPAN_OUTCOMES: Final = ("exported", "rate", "queue_full", "closed", "failed", "unsent")
SPANS: Final = REGISTRY.counter(
    "finflow_trace_spans",
    "Spans of kept traces: `exported`, or why not: more than may be kept a second (`rate`), a full queue, "
    "after the end (`closed`), not taken by the receiver (`failed`), or not in time at the end (`unsent`).",
    ("outcome",), released=True,
)  # fmt: skip

# --- the process ---

CPU: Final = REGISTRY.counter(
    "process_cpu_seconds", "User and system time of the API's processes.", unit="seconds", released=True
)
RESIDENT: Final = REGISTRY.gauge(
    "process_resident_memory_bytes", "Memory of the API's processes, shared pages counted in each.",
    unit="bytes", released=True,
)  # fmt: skip
OPEN_FDS: Final = REGISTRY.gauge("process_open_fds", "Open files and sockets.", released=True)
MAX_FDS: Final = REGISTRY.gauge("process_max_fds", "Open files that each process may have.", merge="min")
THREADS: Final = REGISTRY.gauge("process_threads", "Threads.", released=True)
START_TIME: Final = REGISTRY.gauge(
    "process_start_time_seconds", "When the oldest process started, in seconds since 1970.",
    unit="seconds", merge="min",
)  # fmt: skip
PROCESSES: Final = REGISTRY.gauge(
    "finflow_processes", "Processes that run, by what they do.", ("role",), released=True
)
GC_COLLECTIONS: Final = REGISTRY.counter(
    "python_gc_collections", "Collections of the garbage collector, by generation.", ("generation",)
)
GC_PAUSE: Final = REGISTRY.histogram(
    "python_gc_pause_seconds", "Time that a collection took.", _PAUSE_EDGES_S, unit="seconds", released=True
)
LOOP_LAG: Final = REGISTRY.histogram(
    "finflow_event_loop_lag_seconds", "How late the event loop woke a task that slept.",
    _LAG_EDGES_S, unit="seconds", released=True,
)  # fmt: skip
BUILD: Final = REGISTRY.gauge(
    "finflow_build", "What runs: its version, its release, the Python below it.",
    ("version", "release", "python"), kind="info", merge="max",
)  # fmt: skip


def born(family: Family[Counter]) -> dict[str, Counter]:
    """A counter at 0 for every code of the catalogue: the first failure is a rise, not a beginning."""
    return {code: family.bind(code) for code in CATALOGUE}


def bound_each(family: "Family[Counter] | Family[Gauge]", values: tuple[str, ...]) -> dict[str, Counter]:
    """A bound series for each value of the one label."""
    return {value: family.bind(value) for value in values}


PROBLEM: Final = born(PROBLEMS)
REFUSAL: Final = born(REFUSALS)
COMMAND: Final = bound_each(COMMANDS, COMMAND_OUTCOMES)
WRITE_FAILURE: Final = bound_each(
    WRITE_FAILURES, ("database_unreachable", "database_full", "outcome_unknown", "ledger_unknown", "internal")
)
# Each is written by one thread: the exporter's or the requests'.
SPAN: Final = bound_each(SPANS, SPAN_OUTCOMES)
RETRY: Final = bound_each(BATCH_RETRIES, ("void", "key", "database"))

active_requests: Final[Gauge] = ACTIVE_REQUESTS.bind()
unknown_outcomes: Final[Counter] = UNKNOWN_OUTCOMES.bind()
batch_size: Final[Histogram] = BATCH_SIZE.bind()
queue_wait: Final[Histogram] = QUEUE_WAIT.bind()
write_duration: Final[Histogram] = WRITE_DURATION.bind()
commit_duration: Final[Histogram] = COMMIT_DURATION.bind()
queued_commands: Final[Gauge] = QUEUED_COMMANDS.bind()
pool_idle: Final[Gauge] = POOL_CONNECTIONS.bind("idle")
pool_used: Final[Gauge] = POOL_CONNECTIONS.bind("used")
pool_max: Final[Gauge] = POOL_MAX.bind()
pool_pending: Final[Gauge] = POOL_PENDING.bind()
pool_wait: Final[Histogram] = POOL_WAIT.bind()
pool_timeouts: Final[Counter] = POOL_TIMEOUTS.bind()
