"""What a receiver of OTLP gets of a running FinFlow: attributes, parents, links, what is kept and why."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import httpx
import pytest

from finflow.api.asgi import build
from finflow.app import Config, running, services
from finflow.client.model import NewAccount
from finflow.client.service import Client
from finflow.client.tokens import StaticToken
from finflow.db.migrations import migrate
from finflow.db.traced import connection_class
from finflow.ledger import writer
from finflow.ledger.writer import LedgerWriter
from finflow.telemetry.export import Exporter
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.service import tracing_on
from finflow.telemetry.settings import OtlpSettings
from finflow.telemetry.tracing import Tracer, install, root
from oracles import otlp
from oracles.http import Bank, client_of, lifespan, line
from oracles.otlp import Receiver, Seen
from oracles.tokens import FLAGS, operator_token, tenant_token

KINDS = {"http/protobuf": otlp.over_http, "grpc": otlp.over_grpc}
ALL, NONE = Sampling(ratio=1.0, slow_ms=1e9, head_per_s=1e6), Sampling(ratio=0.0, slow_ms=1e9)
UPSTREAM = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def tracing(
    receiver: Receiver, sampling: Sampling, protocol: str = "http/protobuf", **more: str
) -> Iterator[None]:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": "X-Scope-OrgID=bank%20one",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=staging,k8s.cluster.name=sg-1",
        "POD_NAME": "finflow-7d9f-x",
        **more,
    }
    with tracing_on(environ, sampling, "2026.11-test"):
        yield


@asynccontextmanager
async def traced_bank(database_url: str, **built: Any) -> AsyncIterator[Bank]:
    config = Config.load({"database_url": database_url, "tenant_concurrency": 1_000, **FLAGS}, {})
    app = build(lambda: services(config), release="2026.11-test", **built)
    async with lifespan(app), client_of(app) as client:
        yield await Bank(client).found()


async def post(bank: Bank, key: str, a: str, b: str, **headers: str) -> httpx.Response:
    body = {"ledger_id": bank.ledger_id, "entries": [line(a, "debit", "1.00"), line(b, "credit", "1.00")]}
    return await bank.client.post("/v1/transactions", json=body, headers={"Idempotency-Key": key, **headers})


def spans_of(receiver: Receiver, trace_id: str) -> list[Seen]:
    return [span for span in receiver.spans if span.trace_id == trace_id]


@pytest.mark.parametrize("protocol", sorted(KINDS))
async def test_a_transaction_is_a_trace_that_leads_to_its_group_commit(
    database_url: str, protocol: str
) -> None:
    with KINDS[protocol]() as receiver, tracing(receiver, ALL, protocol):
        async with traced_bank(database_url) as bank:
            a, b = [await bank.open() for _ in range(2)]
            tenant = (await bank.client.get(f"/v1/ledgers/{bank.ledger_id}")).json()["tenant_id"]
            answer = await post(
                bank, "k1", a, b,
                traceparent=f"00-{UPSTREAM[0]}-{UPSTREAM[1]}-01", tracestate="vendor=a1,other=b2",
                **{"X-Request-Id": "asked-by-test"},
            )  # fmt: skip
            assert answer.status_code == 201
            await receiver.wait_for("POST /v1/transactions")
            # Two openings of accounts, then the transaction.
            await receiver.wait_for("ledger.group_commit", 3)
            [server] = receiver.named("POST /v1/transactions")

    # The server's span: the caller's child, with everything that OpenTelemetry's conventions name.
    assert (server.trace_id, server.parent_id) == UPSTREAM
    assert (server.kind, server.failed, server.state) == ("server", False, "vendor=a1,other=b2")
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/transactions",
        "http.response.status_code": 201,
        "url.path": "/v1/transactions",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "test",
        "finflow.request.id": "asked-by-test",
        "finflow.tenant.id": tenant,
        "finflow.release": "2026.11-test",
        "finflow.sampled.reason": "head",
    }
    assert server.start < server.end

    # The mission's four of the resource.
    resource = server.resource
    assert resource["service.name"] == "finflow"
    assert resource["k8s.pod.name"] == "finflow-7d9f-x"
    assert resource["k8s.cluster.name"] == "sg-1"
    assert resource["deployment.environment.name"] == "staging"
    assert resource["service.instance.id"]
    assert resource["service.version"]
    assert resource["finflow.release"] == "2026.11-test"

    # The time in the queue and in the batch, within the request.
    [submit] = [span for span in spans_of(receiver, UPSTREAM[0]) if span.name == "ledger.submit"]
    assert submit.parent_id == server.span_id
    assert server.start <= submit.start <= submit.end <= server.end
    assert submit.attributes["finflow.commands"] == 1
    assert submit.attributes["finflow.queue_wait_ms"] >= 0
    assert submit.attributes["finflow.tenant.id"] == tenant
    assert submit.attributes["finflow.request.id"] == "asked-by-test"

    # The group commit: a trace of its own, both sides linked, and what the database was asked in it.
    [(commit_trace, commit_span)] = submit.links
    commit = next(span for span in receiver.spans if span.span_id == commit_span)
    assert (commit.name, commit.parent_id, commit.trace_id) == ("ledger.group_commit", "", commit_trace)
    assert (submit.trace_id, submit.span_id) in commit.links
    assert commit.attributes["finflow.commands"] == 1
    assert commit.attributes["finflow.tenant.id"] == tenant
    children = [span for span in spans_of(receiver, commit_trace) if span.span_id != commit_span]
    assert all(span.parent_id == commit_span and span.kind == "client" for span in children)
    asked = [span.name for span in children]
    # One transaction alone is one statement, which commits by itself.
    assert asked == ["UPDATE heads"]
    [update] = [span for span in children if span.name == "UPDATE heads"]
    assert update.attributes["db.system.name"] == "postgresql"
    assert update.attributes["db.operation.name"] == "UPDATE"
    assert update.attributes["db.collection.name"] == "heads"
    assert update.attributes["db.query.text"].startswith("with moved as ( update heads set seq = $2")
    assert update.attributes["db.namespace"].startswith("test_")
    assert update.attributes["server.address"].endswith(".s.PGSQL.5432")

    # The receiver got the configured header, decoded.
    assert receiver.headers[0]["x-scope-orgid"] == "bank one"
    # No value of the request is in any text.
    everything = repr(receiver.spans)
    assert "1.00" not in everything
    assert a not in everything


async def test_reads_show_their_queries_and_the_template_of_their_path(database_url: str) -> None:
    with otlp.over_http() as receiver, tracing(receiver, ALL):
        async with traced_bank(database_url) as bank:
            a = await bank.open()
            await bank.client.get(f"/v1/accounts/{a}?unknown=1")
            await bank.client.get(f"/v1/accounts/{a}")
            await receiver.wait_for("GET /v1/accounts/{account_id}", 2)
            await receiver.wait_for("SELECT accounts")
        spans = receiver.named("GET /v1/accounts/{account_id}")
    read = next(span for span in spans if span.attributes["http.response.status_code"] == 200)
    queries = [span for span in spans_of(receiver, read.trace_id) if span.kind == "client"]
    # The connection enters the ledger, then reads.
    assert [span.attributes["db.query.text"].split("(")[0] for span in queries[:-1]] == [
        "select enter_ledger"
    ]
    assert queries[-1].name == "SELECT accounts"
    assert all(span.parent_id == read.span_id for span in queries)
    # A refusal is not a failure, and no span holds a query string.
    refused = next(span for span in spans if span.attributes["http.response.status_code"] == 400)
    assert not refused.failed
    assert "unknown" not in repr(spans)


async def test_a_statement_that_fails_says_how_and_those_beside_it_do_not(database_url: str) -> None:
    divide = "select 1 / $1::int"
    with otlp.over_http() as receiver, tracing(receiver, ALL):
        connection = await asyncpg.connect(database_url, connection_class=connection_class())
        try:
            with root("asked"):
                assert await connection.fetchval(divide, 1) == 1
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await connection.fetchval(divide, 0)
                assert await connection.fetchval(divide, -1) == -1
        finally:
            await connection.close()
        await receiver.wait_for("asked")
    asked = receiver.named("SELECT")
    assert [span.failed for span in asked] == [False, True, False]
    same = asked[0].attributes
    assert same["db.query.text"] == divide.replace("1 /", "? /")
    assert asked[1].attributes == same | {"db.response.status_code": "22012", "error.type": "22012"}
    assert asked[2].attributes == same


async def test_an_unknown_path_names_no_span(database_url: str) -> None:
    with otlp.over_http() as receiver, tracing(receiver, ALL):
        async with traced_bank(database_url) as bank:
            await bank.client.get("/v1/no/such/thing")
            [seen] = [s for s in await receiver.wait_for("GET") if s.kind == "server"]
    assert "http.route" not in seen.attributes
    assert seen.attributes["http.response.status_code"] == 404


async def test_of_unsampled_requests_only_the_failed_and_the_slow_are_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp.over_http() as receiver, tracing(receiver, NONE):
        async with traced_bank(database_url) as bank:
            a, b = [await bank.open() for _ in range(2)]
            assert (await post(bank, "fine", a, b)).status_code == 201
            assert (
                await post(bank, "unsampled", a, b, traceparent=f"00-{UPSTREAM[0]}-{UPSTREAM[1]}-00")
            ).status_code == 201

            async def broken(*_: Any) -> Any:
                raise RuntimeError("bug")

            with monkeypatch.context() as patch:
                patch.setattr(LedgerWriter, "_transact", broken)
                assert (await post(bank, "bad", a, b)).status_code == 500
            [failed] = await receiver.wait_for("POST /v1/transactions")
            await receiver.wait_for("ledger.group_commit")
            await asyncio.sleep(0.3)
    assert failed.failed
    assert failed.attributes["finflow.sampled.reason"] == "error"
    assert failed.attributes["error.type"] == "internal"
    [commit] = receiver.named("ledger.group_commit")
    assert (commit.failed, commit.attributes["error.type"]) == (True, "internal")
    assert {span.trace_id for span in receiver.spans} == {failed.trace_id, commit.trace_id}


async def test_a_slow_request_brings_its_group_commit_along(database_url: str) -> None:
    # Every request is slow that takes a tenth of a second, and none is sampled: the lock makes one slow.
    with otlp.over_http() as receiver, tracing(receiver, Sampling(ratio=0.0, slow_ms=400)):
        async with traced_bank(database_url) as bank:
            a, b = [await bank.open() for _ in range(2)]
            other = await asyncpg.connect(database_url)
            async with other.transaction():
                await other.execute("select 1 from heads for update")
                waiting = asyncio.create_task(post(bank, "slow", a, b))
                await asyncio.sleep(0.6)
            assert (await waiting).status_code == 201
            await other.close()
            [slow] = await receiver.wait_for("POST /v1/transactions")
            await receiver.wait_for("ledger.group_commit")
    assert slow.attributes["finflow.sampled.reason"] == "slow"
    [submit] = [s for s in spans_of(receiver, slow.trace_id) if s.name == "ledger.submit"]
    commit = next(s for s in receiver.spans if s.span_id == submit.links[0][1])
    # "Which query, why slow?": the longest span of the commit's trace is the wait for the head's lock.
    queries = [s for s in spans_of(receiver, commit.trace_id) if s.kind == "client"]
    longest = max(queries, key=lambda span: span.end - span.start)
    assert longest.name in ("UPDATE heads", "SELECT heads")
    assert longest.end - longest.start > 400_000_000


@pytest.mark.parametrize("sampling", [ALL, NONE])
async def test_a_request_that_runs_into_its_deadline_leads_to_what_it_waited_for(
    database_url: str, sampling: Sampling
) -> None:
    with otlp.over_http() as receiver, tracing(receiver, sampling):
        async with traced_bank(database_url, deadline_s=0.5) as bank:
            a, b = [await bank.open() for _ in range(2)]
            other = await asyncpg.connect(database_url)
            async with other.transaction():
                await other.execute("select 1 from heads for update")
                answer = await post(bank, "late", a, b)
                assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
                await asyncio.sleep(0.3)
            await other.close()
            [late] = await receiver.wait_for("POST /v1/transactions")
            [submit] = [s for s in receiver.named("ledger.submit") if s.trace_id == late.trace_id]
            while submit.links[0] not in {(s.trace_id, s.span_id) for s in receiver.spans}:
                await asyncio.sleep(0.05)
    assert late.attributes["error.type"] == "deadline_exceeded"
    assert (submit.failed, submit.attributes["error.type"]) == (True, "CancelledError")
    assert 400_000_000 < submit.end - submit.start < late.end - late.start
    [commit] = [s for s in receiver.spans if (s.trace_id, s.span_id) == submit.links[0]]
    assert commit.links == [(submit.trace_id, submit.span_id)]
    # It did what was asked, after its caller had gone.
    assert not commit.failed
    queries = [s for s in spans_of(receiver, commit.trace_id) if s.kind == "client"]
    assert max(query.end - query.start for query in queries) > 700_000_000


async def test_an_answer_that_there_was_no_database_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> Any:
        raise asyncpg.ConnectionDoesNotExistError("gone")

    monkeypatch.setattr(writer, "RETRY_FOR_S", 0.0)
    with otlp.over_http() as receiver, tracing(receiver, NONE):
        async with traced_bank(database_url) as bank:
            a, b = [await bank.open() for _ in range(2)]
            with monkeypatch.context() as patch:
                patch.setattr(LedgerWriter, "_transact", lost)
                assert (await post(bank, "lost", a, b)).status_code == 503
            [failed] = await receiver.wait_for("POST /v1/transactions")
    assert failed.attributes["error.type"] == "database_unreachable"


async def test_many_requests_share_a_group_commit_and_links_are_bounded(database_url: str) -> None:
    with otlp.over_http() as receiver, tracing(receiver, ALL, OTEL_BSP_MAX_QUEUE_SIZE="100000"):
        async with traced_bank(database_url) as bank:
            a, b = [await bank.open() for _ in range(2)]
            answers = await asyncio.gather(*(post(bank, f"m{n}", a, b) for n in range(400)))
            assert {answer.status_code for answer in answers} == {201}
            await receiver.wait_for("ledger.submit", 402, within_s=60)
            await asyncio.sleep(0.5)
    commits = {(span.trace_id, span.span_id): span for span in receiver.named("ledger.group_commit")}
    submits = receiver.named("ledger.submit")
    # Every request leads to exactly one commit that was exported, whatever the bound of the way back.
    assert all(len(span.links) == 1 and span.links[0] in commits for span in submits)
    for place, commit in commits.items():
        served = [s for s in submits if s.links[0] == place]
        assert len(served) == commit.attributes["finflow.jobs"]
        assert len(commit.links) == min(128, len(served))
        assert commit.dropped_links == max(0, len(served) - 128)
        assert set(commit.links) <= {(s.trace_id, s.span_id) for s in served}


async def test_migrations_and_sweeps_are_traces_of_their_own(database_url_empty: str) -> None:
    with otlp.over_http() as receiver, tracing(receiver, ALL):
        applied = await migrate(database_url_empty)
        await receiver.wait_for(f"db.migrate {applied[-1]}")
        async with traced_bank(database_url_empty):
            [sweep, *_] = await receiver.wait_for("ledger.sweep")
    names = [span.name for span in receiver.spans if span.name.startswith("db.migrate ")]
    assert names == [f"db.migrate {name}" for name in applied]
    assert sweep.parent_id == ""
    # A migration's text is shown without its literals.
    texts = [span.attributes["db.query.text"] for span in receiver.spans if span.kind == "client"]
    assert any("create table" in text.lower() for text in texts)
    assert not any("'" in text for text in texts)


async def test_the_client_begins_a_trace_that_a_worker_and_its_group_commit_continue(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp.over_grpc() as receiver, tracing(receiver, ALL, "grpc"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "finflow-worker")
        # The workers' own dice never sample: that they keep the trace is the client's wish.
        monkeypatch.setenv("FINFLOW_TRACE_RATIO", "0")
        monkeypatch.setenv("FINFLOW_TRACE_SLOW_MS", "3600000")
        flags = {"database_url": database_url, "data": str(tmp_path / "data"), "workers": 1, **FLAGS}
        async with running(Config.load(flags, {}), ingress=None) as stack:
            async with Client(stack.url, token=StaticToken(operator_token())) as operator:
                tenant = await operator.create_tenant("T")
            mine = StaticToken(tenant_token(tenant.tenant_id))
            async with Client(stack.url, token=mine) as client:
                ledger = await client.create_ledger("L")
                await client.open_account(NewAccount(ledger.ledger_id, "SGD", "asset"))
            [server] = await receiver.wait_for("POST /v1/accounts")
            [commit] = await receiver.wait_for("ledger.group_commit")
            calls = {span.span_id: span for span in await receiver.wait_for("POST", 3)}
            url = stack.url
    call = calls[server.parent_id]
    assert (call.kind, call.trace_id, call.resource["service.name"]) == ("client", server.trace_id, "finflow")
    assert server.resource["service.name"] == "finflow-worker"
    assert call.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "url.full": f"{url}/v1/accounts",
        "server.address": "127.0.0.1",
        "server.port": stack.fleet.port if stack.fleet else 0,
        "finflow.sampled.reason": "head",
    }
    # The worker's own server says its port as text.
    assert server.attributes["server.port"] == call.attributes["server.port"]
    [submit] = [span for span in spans_of(receiver, call.trace_id) if span.name == "ledger.submit"]
    assert submit.parent_id == server.span_id
    assert submit.links == [(commit.trace_id, commit.span_id)]
    assert commit.links == [(submit.trace_id, submit.span_id)]


async def test_a_black_hole_slows_and_fails_nothing(database_url: str) -> None:
    # The settings make of the real minute a second and a half: each export hangs for 0.3 s, the queue holds
    # 60 spans, and the end waits for at most its bound.
    with otlp.over_http() as receiver:
        receiver.hung = threading.Event()
        settings = OtlpSettings(
            endpoint=receiver.url + "/v1/traces", timeout_s=0.3, max_queued=60, max_batch=20, every_s=0.05,
            close_within_s=0.5,
        )  # fmt: skip
        exporter = Exporter(settings, {"service.name": "x"})
        exporter.start()
        before = install(Tracer(exporter.offer, Sampling(ratio=1.0, head_per_s=1e9), exporter.drop))
        most, answered = 0, 0
        try:
            async with traced_bank(database_url) as bank:
                a, b = [await bank.open() for _ in range(2)]
                until = monotonic() + 1.5
                while monotonic() < until or answered < 200:
                    answers = await asyncio.gather(*(post(bank, f"h{answered + n}", a, b) for n in range(20)))
                    assert {answer.status_code for answer in answers} == {201}
                    answered += len(answers)
                    most = max(most, exporter.queued)
        finally:
            install(before)
            left = monotonic()
            all_sent = exporter.close()
            closing_s = monotonic() - left
    assert most <= 60
    assert exporter.exported == 0
    assert not all_sent
    # Every request had two spans at least, and what was neither exported nor waits was counted.
    assert exporter.dropped["queue_full"] > 0
    assert sum(exporter.dropped.values()) + exporter.queued + 20 >= 2 * answered
    assert closing_s < 10 * settings.close_within_s


async def test_a_receiver_that_fails_and_comes_back_is_used_again(database_url: str) -> None:
    with otlp.over_http() as receiver:
        receiver.broken = True
        with tracing(receiver, ALL, OTEL_EXPORTER_OTLP_TIMEOUT="300"):
            async with traced_bank(database_url) as bank:
                await bank.open()
                while receiver.requests < 2:
                    await asyncio.sleep(0.02)
                receiver.broken = False
                # What was in the batch that failed is lost, and counted; what comes after arrives.
                await asyncio.sleep(0.4)
                await bank.client.get(f"/v1/ledgers/{bank.ledger_id}")
                [seen, *_] = await receiver.wait_for("GET /v1/ledgers/{ledger_id}")
    assert not seen.failed


def test_a_process_ends_in_time_though_its_receiver_never_answers() -> None:
    """The whole interpreter, because what hangs at its exit is what nobody joins."""
    script = """
import socket, sys, time
from finflow.telemetry import tracing
from finflow.telemetry.service import tracing_on
from finflow.telemetry.sampling import Sampling
hole = socket.create_server(("127.0.0.1", 0), backlog=8)
environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{hole.getsockname()[1]}",
           "OTEL_EXPORTER_OTLP_PROTOCOL": sys.argv[1], "OTEL_EXPORTER_OTLP_TIMEOUT": "3600000",
           "OTEL_BSP_SCHEDULE_DELAY": "10"}
with tracing_on(environ, Sampling(1.0), "r") as exporter:
    with tracing.root("step"):
        pass
    while exporter.queued:
        time.sleep(0.01)
print("ended")
"""
    for protocol in KINDS:
        done = subprocess.run(
            [sys.executable, "-c", script, protocol], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_nothing_of_opentelemetry_is_loaded_where_traces_are_off() -> None:
    script = """
import sys
from finflow.telemetry.service import tracing_on
from finflow.telemetry.sampling import Sampling
import finflow.api.asgi
with tracing_on({}, Sampling(), "r") as exporter:
    assert exporter is None
    heavy = ("opentelemetry", "google.protobuf", "grpc", "requests")
    print([name for name in sys.modules if name.startswith(heavy)])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
