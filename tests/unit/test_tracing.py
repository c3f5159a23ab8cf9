"""What is kept and why, times that no clock step bends, W3C headers, SQL without values, OTEL_* variables."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from finflow.api import watching
from finflow.api.watching import Watch
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import sampling, spans, trace_context, tracing
from finflow.telemetry.otlp import frame_of, resource_of, spans_of
from finflow.telemetry.otlp_encoding import encode
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.settings import OtlpSettings, resource_attributes
from finflow.telemetry.statements import described
from finflow.telemetry.trace_context import Parent
from finflow.telemetry.tracing import Span, Trace, Tracer, Work

_S = 1_000_000_000


class Clock:
    """Both clocks of a test: `wall` may step, `now` may not."""

    def __init__(self) -> None:
        self.now, self.wall = 5_000 * _S, 1_767_225_600 * _S

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * _S)
        self.wall += int(seconds * _S)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(spans, "now_ns", lambda: found.now)
    monkeypatch.setattr(tracing, "now_ns", lambda: found.now)
    monkeypatch.setattr(watching, "monotonic", lambda: found.now / _S)
    monkeypatch.setattr(sampling, "now_ns", lambda: found.now)
    monkeypatch.setattr(spans, "wall_ns", lambda: found.wall)
    return found


@pytest.fixture
def kept() -> Iterator[list[Span]]:
    """Roots that a tracer keeps which samples nothing and finds 0.25 s slow: a float has that exactly."""
    roots: list[Span] = []
    before = tracing.install(Tracer(roots.append, Sampling(ratio=0.0, slow_ms=250)))
    yield roots
    tracing.install(before)


# --- what is kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "error", "reason"),
    [(0.249, None, None), (0.25, None, "slow"), (0.001, "500", "error"), (9.0, "500", "error")],
)
def test_the_end_decides(
    clock: Clock, kept: list[Span], seconds: float, error: str | None, reason: str | None
) -> None:
    root = tracing.tracer().begin("r")
    clock.pass_(seconds)
    tracing.tracer().finish(root, error)
    assert [each.trace.kept for each in kept] == ([reason] if reason else [])


@pytest.mark.parametrize("sampled", [True, False])
def test_the_caller_s_decision_is_the_head_s(kept: list[Span], sampled: bool) -> None:
    root = tracing.tracer().begin("r", parent=Parent(7, 8, sampled))
    tracing.tracer().finish(root)
    assert [each.trace.kept for each in kept] == (["head"] if sampled else [])
    assert root.trace.trace_id == 7


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_the_dice_are_those_of_opentelemetry(ratio: float) -> None:
    sampler = TraceIdRatioBased(ratio)
    tracer = Tracer(lambda root: None, Sampling(ratio))
    for _ in range(2_000):
        trace = tracer.begin("r").trace
        theirs = sampler.should_sample(None, trace.trace_id, "r").decision is Decision.RECORD_AND_SAMPLE
        assert trace.sampled == theirs


def test_a_flood_is_kept_up_to_the_allowance_and_the_rest_counted(clock: Clock) -> None:
    roots: list[Span] = []
    dropped: list[tuple[str, int]] = []
    limits = Sampling(ratio=1.0, slow_ms=200, head_per_s=4, failed_per_s=2, slow_per_s=1)
    tracer = Tracer(roots.append, limits, lambda *what: dropped.append(what))
    for _ in range(50):
        tracer.finish(tracer.begin("sampled"))
        tracer.finish(tracer.begin("failed"), "500")
        slow = tracer.begin("slow", parent=Parent(1, 2, False))
        clock.pass_(0.2)
        tracer.finish(slow)
    kept = [(root.name, root.trace.kept) for root in roots]
    # A burst of five seconds, then ten seconds' worth; none of the three uses up what another needs. Those
    # that fail are among the chosen as often as those that do not.
    chosen = 5 * 4 + 10 * 4
    assert kept.count(("sampled", "head")) >= chosen // 2
    failed = kept.count(("failed", "error"))
    assert chosen <= kept.count(("sampled", "head")) + failed <= chosen + 5 * 2 + 10 * 2
    assert kept.count(("slow", "slow")) == pytest.approx(5 * 1 + 10 * 1, abs=1)
    assert dropped == [("rate", 1)] * (150 - len(kept))


def test_a_sink_that_breaks_fails_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(root: Span) -> None:
        raise RuntimeError("sink")

    tracer = Tracer(broken, Sampling(1.0))
    tracer.finish(tracer.begin("r"))
    assert "a trace was lost" in caplog.text


def test_work_for_others_is_kept_with_whom_it_served(kept: list[Span]) -> None:
    tracer = tracing.tracer()
    quiet, loud = (tracer.begin(name) for name in ("quiet", "loud"))
    commit = tracer.begin_for_others("commit")
    work = Work(commit, "submit", commit.started_ns + 5_000_000, None, {"ledger": 7})
    for request in (quiet, loud):
        work.serve([(request, request.started_ns / 1e9, 3)])
    tracer.finish(commit)
    assert kept == []
    tracer.finish(quiet)
    tracer.finish(loud, "500")
    assert [(root.name, root.trace.kept) for root in kept] == [("commit", "linked"), ("loud", "error")]
    [submit] = loud.trace.spans
    assert (submit.name, submit.parent, submit.error) == ("submit", loud, None)
    assert submit.attributes["ledger"] == 7
    assert submit.attributes["finflow.commands"] == 3
    assert submit.links == [(commit.trace.trace_id, commit.span_id, False)]
    assert commit.links == [(loud.trace.trace_id, submit.span_id, False)], "of the other nothing is kept"


def test_waiting_for_work_has_a_bound(kept: list[Span]) -> None:
    tracer = tracing.tracer()
    request, commit = tracer.begin("r"), tracer.begin_for_others("commit")
    for _ in range(200):
        Work(commit, "submit", commit.started_ns, None, {}).serve([(request, request.started_ns / 1e9, 1)])
    tracer.finish(request, "500")
    assert len(request.trace.spans) == tracing.MAX_SPANS
    assert len({span.span_id for span in request.trace.spans}) == tracing.MAX_SPANS
    assert request.trace.dropped == 200 - tracing.MAX_SPANS


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nobody_waits_for_work_after_its_trace_is_over(ratio: float) -> None:
    tracer = Tracer(lambda root: None, Sampling(ratio=ratio))
    over, commit = tracer.begin("r"), tracer.begin_for_others("commit")
    tracer.finish(over)
    Work(commit, "submit", commit.started_ns, None, {}).serve([(over, 0.0, 1)])
    assert (over.waits, commit.links) == ([], [])


def request(**state: str) -> tracing.Scope:
    """The ASGI scope of a request, as far as traces look at it."""
    return {"method": "GET", "path": "/v1/x", "state": state}


@pytest.mark.parametrize(
    ("told", "port"),
    [(8080, 8080), ("8080", 8080), (None, None), ("", None), ("junk", None), ("9" * 30, None), (-1, None)],
)
def test_the_port_of_a_server_is_a_number_whatever_its_server_tells(
    kept: list[Span], told: Any, port: int | None
) -> None:
    scope = request() | {"server": ("127.0.0.1", told)}
    begun(scope)
    trace = ended(scope, "500")
    assert trace is not None
    found = trace.attributes.get("server.port")
    assert (found, type(found)) == (port, type(port))


def begun(scope: tracing.Scope) -> tracing.Running:
    """What runs for a request that begins now."""
    return tracing.begin_request(scope, None, spans.now_ns() / _S)


def ended(scope: tracing.Scope, error: str | None = None) -> Trace | None:
    """What becomes of a request's trace at its end."""
    Watch((), "1").end(scope, int(error or 200))
    return scope.get(spans.TRACE)


def test_a_request_has_no_trace_until_somebody_needs_one(clock: Clock, kept: list[Span]) -> None:
    commit = tracing.tracer().begin_for_others("commit")
    quiet, failed, slow = request(), request(request_id="req_2", tenant_id="ten_1"), request()
    for scope in (quiet, failed, slow):
        assert begun(scope) is scope
    work = Work(commit, "submit", clock.now, None, {})
    work.serve([(scope, clock.now / 1e9, 1) for scope in (quiet, failed, slow)])
    tracing.tracer().finish(commit)
    assert (ended(quiet), ended(failed, "503")) == (None, kept[1])
    clock.pass_(0.25)
    assert ended(slow) == kept[2]
    assert [root.trace.kept for root in kept] == ["linked", "error", "slow"]
    assert kept[1].trace.common() == {"finflow.tenant.id": "ten_1", "finflow.request.id": "req_2"}
    made = [(root.trace, root.trace.spans[0]) for root in kept[1:]]
    assert all(span.name == "submit" and span.parent is trace for trace, span in made)
    assert commit.links == [(trace.trace_id, span.span_id, False) for trace, span in made]
    assert all(span.links == [(commit.trace_id, commit.span_id, False)] for _, span in made)


def test_a_request_that_waits_often_says_how_much_it_left_out(kept: list[Span]) -> None:
    scope, commit = request(), tracing.tracer().begin_for_others("commit")
    begun(scope)
    for _ in range(200):
        Work(commit, "submit", commit.started_ns, None, {}).serve([(scope, 0.0, 1)])
    trace = ended(scope, "500")
    assert trace is not None
    assert (len(trace.spans), trace.dropped) == (tracing.MAX_SPANS, 200 - tracing.MAX_SPANS)


def test_work_that_a_request_gave_up_on_is_kept_when_it_ends(clock: Clock, kept: list[Span]) -> None:
    scope, commit = request(), tracing.tracer().begin_for_others("commit")
    begun(scope)
    Work(commit, "submit", clock.now, "CancelledError", {}).serve([(scope, clock.now / 1e9, 1)])
    trace = ended(scope, "504")
    assert trace is not None
    [submit] = trace.spans
    assert (submit.name, submit.error, kept) == ("submit", "CancelledError", [trace])
    clock.pass_(0.125)
    tracing.tracer().finish(commit)
    assert [(root, root.trace.kept) for root in kept[1:]] == [(commit, "linked")]
    assert commit.ended_ns - commit.started_ns == _S // 8
    assert commit.links == [(trace.trace_id, submit.span_id, False)]
    assert submit.links == [(commit.trace_id, commit.span_id, False)]


def test_work_links_to_no_request_for_which_there_was_no_room(clock: Clock) -> None:
    roots: list[Span] = []
    dropped: list[tuple[str, int]] = []
    limits = Sampling(ratio=1.0, head_per_s=2)
    before = tracing.install(Tracer(roots.append, limits, lambda *what: dropped.append(what)))
    try:
        commit, scopes = tracing.tracer().begin_for_others("commit"), [request() for _ in range(50)]
        callers = [begun(scope) for scope in scopes]
        Work(commit, "submit", clock.now, None, {}).serve([(each, 0.0, 1) for each in callers])
        tracing.tracer().finish(commit)
        for scope in scopes:
            ended(scope)
    finally:
        tracing.install(before)
    heads = [root.trace for root in roots if root.trace.kept == "head"]
    assert len(heads) == 10
    assert [trace_id for trace_id, _, _ in commit.links] == [trace.trace_id for trace in heads]
    assert dropped == [("rate", 1)] * 40


def test_whoever_asks_for_the_span_of_a_request_gets_the_same_before_and_after(kept: list[Span]) -> None:
    scope = request(request_id="req_1", tenant_id="ten_1")
    token = tracing.enter(begun(scope))
    found = tracing.current()
    assert found is not None
    with tracing.span("inner") as inner:
        assert inner is not None
        assert (inner.parent, inner.trace) == (found, found)
    assert ended(scope) is found
    assert kept == []
    assert tracing.current() is found
    assert tracing.start("too late") is None
    tracing.leave(token)


def test_a_request_that_is_over_has_ids_and_nothing_more(kept: list[Span]) -> None:
    scope, commit = (
        request(request_id="req_1", tenant_id="ten_1"),
        tracing.tracer().begin_for_others("commit"),
    )
    token = tracing.enter(begun(scope))
    assert ended(scope) is None
    Work(commit, "submit", commit.started_ns, None, {}).serve([(scope, 0.0, 1)])
    found = tracing.current()
    assert found is not None
    assert (found.trace.request, found.trace.whose) == ("req_1", "ten_1")
    assert (found.trace.recording, found.trace.waits, tracing.start("late")) == (False, [], None)
    tracing.leave(token)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_the_dice_of_requests_choose_as_often_and_by_the_same_ids(ratio: float) -> None:
    sampler = TraceIdRatioBased(ratio)
    dice, throws = sampling.Dice(ratio), 20_000
    chosen = [dice.chooses() for _ in range(throws)]
    # Five standard deviations of a binomial count.
    assert abs(sum(chosen) - throws * ratio) <= 5 * (throws * ratio * (1 - ratio)) ** 0.5
    for each in sorted(set(chosen)) * 500:
        trace_id, sampled = dice.of(each)
        theirs = sampler.should_sample(None, trace_id, "r").decision is Decision.RECORD_AND_SAMPLE
        assert (theirs, sampled) == (each, each)
        assert 0 < trace_id < 1 << 128


def test_requests_that_the_dice_choose_are_kept(clock: Clock) -> None:
    roots: list[Span] = []
    before = tracing.install(Tracer(roots.append, Sampling(ratio=1.0)))
    try:
        scope, commit = request(), tracing.tracer().begin_for_others("commit")
        trace = begun(scope)
        Work(commit, "submit", commit.started_ns, None, {}).serve([(trace, 0.0, 1), (scope, 0.0, 1)])
        tracing.tracer().finish(commit)
        assert ended(scope) is trace
        assert [root.trace.kept for root in roots] == ["linked", "head"]
        assert [span_id for _, span_id, _ in commit.links] == [span.span_id for span in roots[1].trace.spans]
    finally:
        tracing.install(before)


def test_a_trace_has_a_bound(kept: list[Span]) -> None:
    root = tracing.tracer().begin("r")
    made = [root.child("c") for _ in range(200)]
    assert len([span for span in made if span]) == tracing.MAX_SPANS == len(root.trace.spans)
    tracing.tracer().finish(root, "500")
    first = next(spans_of(kept[0], resource_of({})))
    assert first.attributes is not None
    assert first.attributes["finflow.dropped_spans"] == 200 - tracing.MAX_SPANS


def test_requests_that_are_not_kept_leave_nothing_for_the_garbage_collector(kept: list[Span]) -> None:
    def handle() -> None:
        root = tracing.tracer().begin("r")
        token = tracing.enter(root)
        with tracing.span("inner"):
            pass
        tracing.leave(token)
        tracing.tracer().finish(root)

    def answer(needed: bool) -> None:
        scope, commit = request(), tracing.tracer().begin_for_others("commit")
        token = tracing.enter(begun(scope))
        Work(commit, "submit", commit.started_ns, None, {}).serve([(scope, 0.0, 1)])
        if needed:
            with tracing.span("inner"):
                pass
        tracing.leave(token)
        assert (ended(scope) is not None) is needed

    def alive() -> int:
        return sum(isinstance(each, Trace | Span) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        for number in range(100):
            handle()
            answer(needed=number % 2 == 0)
        assert alive() <= before
    finally:
        gc.enable()


# --- spans ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_clock_that_steps_bends_no_span(clock: Clock, kept: list[Span], step_s: int) -> None:
    began = clock.wall
    root = tracing.tracer().begin("r")
    token = tracing.enter(root)
    clock.pass_(0.25)
    with tracing.span("inner"):
        clock.wall += step_s * _S
        clock.pass_(0.5)
    tracing.leave(token)
    tracing.tracer().finish(root)
    # Laid on the clock as it is at the end, all of it by as much.
    began += step_s * _S
    outer, inner = spans_of(kept[0], resource_of({}))
    assert (outer.start_time, outer.end_time) == (began, began + 750_000_000)
    assert (inner.start_time, inner.end_time) == (began + 250_000_000, began + 750_000_000)


async def test_spans_nest_by_task_and_a_detached_task_belongs_to_nobody(kept: list[Span]) -> None:
    async def ask(name: str) -> None:
        with tracing.span(name):
            await asyncio.sleep(0)
            with tracing.span(f"{name}.inner"):
                await asyncio.sleep(0)

    seen: list[Any] = []

    async def look() -> None:
        seen.append(tracing.current())

    with tracing.root("root") as root:
        await asyncio.gather(ask("a"), ask("b"))
        await asyncio.create_task(tracing.detached(look()))
        assert root is not None
        root.error = "kept"
    above = {span.name: span.parent.name if span.parent else "" for span in kept[0].trace.spans}
    assert above == {"a": "root", "b": "root", "a.inner": "a", "b.inner": "b"}
    assert seen == [None]


def fail_within_a_trace() -> None:
    with tracing.root("root"):
        with pytest.raises(ValueError, match="acc_123"), tracing.span("inner"):
            raise ValueError("acc_123 is not here")
        raise FinFlowError("database_full", "whose disk")


def test_an_error_has_a_name_of_low_cardinality(kept: list[Span]) -> None:
    with pytest.raises(FinFlowError):
        fail_within_a_trace()
    assert kept[0].error == "database_full"
    assert kept[0].trace.spans[0].error == "ValueError"


# --- W3C trace context ----------------------------------------------------------------------------------

_TRACE, _SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{_TRACE}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-00",
        f"00-{_TRACE}-{_SPAN}-03",
        f"cc-{_TRACE}-{_SPAN}-01-what-the-future-will-be-like",
        f"00-{_TRACE}-{_SPAN}-01-extra",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"00-{_TRACE[1:]}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}",
        f"00-{_TRACE}-{_SPAN}-0x",
        "",
        "nonsense",
    ],
)
def test_a_traceparent_is_read_as_opentelemetry_reads_it(header: str) -> None:
    from opentelemetry import trace

    theirs = trace.get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": header})
    ).get_span_context()
    ours = trace_context.parse(header.encode())
    assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert (ours.trace_id, ours.span_id, ours.sampled) == (
            theirs.trace_id, theirs.span_id, theirs.trace_flags.sampled,
        )  # fmt: skip


def test_upper_case_is_refused_as_the_standard_wants_it() -> None:
    # OpenTelemetry's Python library is laxer here than the standard.
    assert trace_context.parse(f"00-{_TRACE.upper()}-{_SPAN}-01".encode()) is None


def test_what_goes_out_is_what_the_standard_shows() -> None:
    assert trace_context.traceparent(int(_TRACE, 16), int(_SPAN, 16), True) == f"00-{_TRACE}-{_SPAN}-01"


@pytest.mark.parametrize(
    ("header", "kept_state"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (" a=1 , ,b=2", "a=1,b=2"),
        ("a=1\t,\t b=2,\t,c=3\t", "a=1,b=2,c=3"),
        ("a=1\t2", ""),
        ("a=1\n,b=2", ""),
        ("a=1,a=2", ""),
        ("A=1", ""),
        ("a", ""),
        ("a=\u00e9", ""),
        ("a=" + "x" * 600, ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(header: str, kept_state: str) -> None:
    parent = trace_context.parse(f"00-{_TRACE}-{_SPAN}-01".encode(), header.encode("latin-1"))
    assert parent is not None
    assert parent.state == kept_state


def test_calls_carry_the_current_span_or_that_of_the_caller_s_own_opentelemetry() -> None:
    from opentelemetry import context, trace

    assert tracing.outgoing() == {}
    theirs = trace.SpanContext(int(_TRACE, 16), int(_SPAN, 16), False, trace.TraceFlags(1))
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(theirs)))
    try:
        assert tracing.outgoing() == {"traceparent": f"00-{_TRACE}-{_SPAN}-01"}
        root = Tracer().begin("r", parent=Parent(1, 2, True, "a=1"))
        ours = tracing.enter(root)
        expected = f"00-{1:032x}-{root.span_id:016x}-01"
        assert tracing.outgoing() == {"traceparent": expected, "tracestate": "a=1"}
        tracing.leave(ours)
    finally:
        context.detach(token)


# --- SQL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "text", "summary"),
    [
        ("select 1", "select ?", "SELECT"),
        ("with m as (update heads set seq = $1 returning seq) select seq from m",
         "with m as (update heads set seq = $1 returning seq) select seq from m", "UPDATE heads"),
        ("with m as (select * from heads for update) select seq from m",
         "with m as (select * from heads for update) select seq from m", "SELECT heads"),
        ("SELECT  a\n FROM t\tWHERE b = $1", "SELECT a FROM t WHERE b = $1", "SELECT t"),
        ("select * from t where iban = 'it''s' and n > 1.5e3", "select * from t where iban = ? and n > ?",
         "SELECT t"),
        ("insert into t1 (a) values ($$sec'ret$$, E'x')", "insert into t1 (a) values (?, ?)", "INSERT t1"),
        ("update t -- 'hidden'\n set a = 5;", "update t set a = ?", "UPDATE t"),
        ("select '-- kept as a literal' /* gone */ from x", "select ? from x", "SELECT x"),
        ("with f as (select 1 from x) update h set a = f.b from f",
         "with f as (select ? from x) update h set a = f.b from f", "UPDATE h"),
        ("COPY journal FROM STDIN", "COPY journal FROM STDIN", "COPY journal"),
        ("BEGIN;", "BEGIN", "BEGIN"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_a_statement_shows_its_shape_and_none_of_its_values(sql: str, text: str, summary: str) -> None:
    found = described(sql)
    assert (found.text, found.summary) == (text, summary)


def test_a_long_statement_is_cut() -> None:
    assert len(described("select " + "a, " * 50_000).text) < 2_100


# --- OTEL_* ---------------------------------------------------------------------------------------------


def test_without_an_endpoint_traces_are_off() -> None:
    assert OtlpSettings.from_environment({}).endpoint is None
    where = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert OtlpSettings.from_environment(where | {"OTEL_SDK_DISABLED": "true"}).endpoint is None
    assert OtlpSettings.from_environment(where | {"OTEL_TRACES_EXPORTER": "none"}).endpoint is None


def test_variables_for_traces_win_and_only_a_base_gets_a_path() -> None:
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/", "OTEL_EXPORTER_OTLP_TIMEOUT": "1500"}
    assert OtlpSettings.from_environment(base).endpoint == "http://c:4318/v1/traces"
    assert OtlpSettings.from_environment(base).timeout_s == 1.5
    exact = base | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d/x"}
    assert OtlpSettings.from_environment(exact).endpoint == "http://d/x"
    grpc = base | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_BSP_MAX_QUEUE_SIZE": "99"}
    found = OtlpSettings.from_environment(grpc)
    assert (found.endpoint, found.protocol, found.max_queued) == ("http://c:4318/", "grpc", 99)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key-without-sign"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "snappy"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/ca.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/no/such/client.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/no/such/client.key"),
    ],
)
def test_a_variable_that_says_nothing_sensible_is_named(name: str, value: str) -> None:
    with pytest.raises(FinFlowError) as caught:
        OtlpSettings.from_environment({name: value})
    assert (caught.value.kind.code, caught.value.param) == ("setting_malformed", name)
    assert "api-key-without-sign" not in caught.value.detail


@pytest.mark.parametrize(
    ("protocol", "known"), [("http/protobuf", {"none", "gzip", "deflate"}), ("grpc", {"none", "gzip"})]
)
def test_each_protocol_has_its_compressions(protocol: str, known: set[str]) -> None:
    base = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    assert OtlpSettings.from_environment(base).compression == "none"
    for text in ("none", "gzip", "deflate"):
        named = base | {"OTEL_EXPORTER_OTLP_COMPRESSION": f" {text.upper()} "}
        if text in known:
            assert OtlpSettings.from_environment(named).compression == text
        else:
            with pytest.raises(FinFlowError, match="none, gzip"):
                OtlpSettings.from_environment(named)


def test_the_resource_says_where_a_process_runs() -> None:
    plain = resource_attributes({}, "1.0", "r1", "host-1", "host-1:7")
    assert plain["service.name"] == "finflow"
    assert "k8s.pod.name" not in plain
    pod = resource_attributes({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "1.0", "r1", "pod-1", "i")
    assert pod["k8s.pod.name"] == "pod-1"
    named = {
        "POD_NAME": "pod-2", "OTEL_SERVICE_NAME": "bank",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,k8s.cluster.name=a%2Cb",
    }  # fmt: skip
    found = resource_attributes(named, "1.0", "r1", "h", "i")
    assert (found["k8s.pod.name"], found["service.name"], found["k8s.cluster.name"]) == (
        "pod-2",
        "bank",
        "a,b",
    )


# --- OTLP ------------------------------------------------------------------------------------------------


def test_what_is_encoded_is_what_opentelemetry_encodes(clock: Clock) -> None:
    roots: list[Span] = []
    tracer = Tracer(roots.append, Sampling(1.0))
    for parent in (None, Parent(3, 4, True, "a=1,b=2"), Parent(1 << 127, (1 << 64) - 1, True)):
        root = tracer.begin("GET /v1/ä", "server", parent)
        root.trace.tenant, root.trace.request_id = "ten_1", "r" * 9_000
        clock.pass_(1.5)
        inner = root.child("inner")
        assert inner is not None
        inner.attributes = {
            "text": "\u00e9\U0001f600", "long": "x" * 5_000, "none": "", "yes": True, "no": False, "zero": 0,
            "one": 1, "minus": -1, "most": 2**63 - 1, "least": -(2**63), "float": 0.1, "half": -1.5,
        }  # fmt: skip
        leaf = inner.child("UPDATE heads", "client")
        assert leaf is not None
        leaf.end("40001")
        inner.end()
        for number in range(200):
            Work(inner, "w", 0, None, {}).serve([(tracer.begin(f"other {number}"), 0.0, 1)])
        root.child("still running")
        root.trace.dropped = 5
        tracer.finish(root, "500" if parent is None else None)
    resource = {"service.name": "bank", "k8s.pod.name": "p"}
    frame = frame_of(resource)
    for root in roots:
        theirs = encode_spans(list(spans_of(root, resource_of(resource))))
        ours = type(theirs).FromString(frame.around(encode(root)))
        assert ours == theirs
    # And several traces in one request.
    both = [span for root in roots for span in spans_of(root, resource_of(resource))]
    together = frame.around(b"".join(map(encode, roots)))
    assert type(theirs).FromString(together) == encode_spans(both)
