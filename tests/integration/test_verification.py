"""Verifications of a real service with real faults: each is found, named, bounded, and tells no secret."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout.verdicts import Verdict
from finflow.verification import loading, report
from finflow.verification.check import SmokeCheck, SmokeSettings
from finflow.verification.model import Outcome, Report, Status
from finflow.verification.service import Run, check_reachable, verify
from oracles.shop import Authority, Shop, shop

_TOKEN = "s3cret-token"  # noqa: S105 - the service of the test knows no other


def _spec(*checks: dict[str, Any], **rest: Any) -> Any:
    """JSON is YAML, so a test writes its checks as Python has them."""
    inputs = {"inputs": ["token"], "secrets": ["token"]}
    return loading.parse(json.dumps({"name": "shop", **inputs, "checks": checks, **rest}))


async def _run(one: Shop | None, *checks: dict[str, Any], environ: Any = None, **rest: Any) -> Report:
    return await verify(
        Run(
            spec=_spec(*checks),
            url=one.url if one else "",
            values={"token": _TOKEN},
            environ=environ or {},
            **rest,
        )
    )


async def _one(one: Shop | None, check: dict[str, Any], **rest: Any) -> Outcome:
    return (await _run(one, {"id": "c", **check}, **rest)).outcomes[0]


_ORDER = {
    "kind": "http", "method": "POST", "path": "/orders", "json": {"item": "tea"},
    "headers": {"Authorization": "Bearer ${token}", "Idempotency-Key": "k-${run}"},
}  # fmt: skip


_REPLAYED = {"Idempotency-Replayed": "true"}


async def test_steps_follow_each_other_with_what_they_captured() -> None:
    async with shop() as one:
        found = await _run(
            one,
            # Written in the wrong order: what a check uses decides when it runs.
            {"id": "read", "kind": "http", "path": "/orders/${order}", "expect": {"text": "${order}"}},
            {"id": "again", **_ORDER, "after": ["give"], "expect": {"headers": _REPLAYED}},
            {
                "id": "give", **_ORDER, "capture": {"order": "/id", "n": "/lines/0/n"},
                "capture_headers": {"trace": "X-Trace"},
                "expect": {"status": 201, "json": {"item": "tea"}, "pointers": {"/lines/0/n": 1}},
            },
            {"id": "use", "kind": "http", "path": "/ready", "query": {"t": "${trace}", "n": "${n}"}},
        )  # fmt: skip
        assert [(each.id, each.status) for each in found.outcomes] == [
            ("read", "passed"), ("again", "passed"), ("give", "passed"), ("use", "passed"),
        ]  # fmt: skip
        assert len(one.orders) == 1
        assert found.exit_code() == 0


async def test_a_failure_stops_what_needs_it_and_nothing_else() -> None:
    async with shop() as one:
        found = await _run(
            one,
            {"id": "give", **_ORDER, "capture": {"order": "/id"}, "expect": {"status": 418}},
            {"id": "read", "kind": "http", "path": "/orders/${order}"},
            {"id": "ready", "kind": "http", "path": "/ready"},
            {"id": "tidy", "kind": "http", "path": "/ready", "after": ["give"], "cleans_up": True},
        )
        assert [each.status for each in found.outcomes] == ["failed", "skipped", "passed", "passed"]
        assert "status 201, not 418" in found.outcomes[0].words
        assert found.exit_code() == 1


async def test_it_asks_again_until_the_time_is_over() -> None:
    async with shop() as one:
        one.not_ready_left = 3
        check = {"kind": "http", "path": "/ready", "retry_for_s": 5, "retry_every_s": 0.01}
        good = await _one(one, {**check, "expect": {"json": {"ready": True}}})
        assert (good.status, good.words) == ("passed", "200 at the 4. attempt")
        bad = await _one(one, {**check, "retry_for_s": 0.1, "expect": {"json": {"ready": 1}}})
        assert (bad.status, bad.words) == ("failed", "/ready is true, not 1")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"path": "/hang", "timeout_s": 0.2}, "no answer within 0.2 s"),
        ({"path": "/rubbish", "expect": {"json": {}}}, "not JSON"),
        ({"path": "/endless"}, "larger than 4 MiB"),
        ({"path": "/nothing"}, "status 404, not 2xx"),
        ({"path": "/ready", "expect": {"text": "maybe"}}, "does not contain 'maybe'"),
        ({"path": "/ready", "capture": {"x": "/no/where"}}, "nothing at /no/where"),
        ({"path": "/ready", "capture_headers": {"x": "X-No"}}, "no header X-No"),
        ({"url": "http://127.0.0.1:1/"}, "127.0.0.1:1"),
        ({"url": "nonsense"}, "not a URL"),
    ],
)
async def test_bad_answers_fail(check: dict[str, Any], words: str) -> None:
    async with shop() as one:
        found = await _one(one, {"kind": "http", **check})
        assert found.status == "failed"
        assert words in found.words


async def test_what_speaks_no_http_fails() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await _one(None, {"kind": "http", "url": f"http://127.0.0.1:{port}/"})
    assert found.status == "failed"


async def test_independent_checks_run_side_by_side_and_not_too_many() -> None:
    checks = [{"id": f"s{n}", "kind": "http", "path": "/slow"} for n in range(20)]
    async with shop() as one:
        found = await verify(Run(spec=_spec(*checks, at_once=4), url=one.url))
        assert found.count(Status.PASSED) == 20
        assert one.most_busy == 4


async def test_the_whole_ends_at_its_deadline() -> None:
    checks = [{"id": f"h{n}", "kind": "http", "path": "/hang", "timeout_s": 60} for n in range(3)]
    async with shop() as one:
        found = await verify(Run(spec=_spec(*checks, at_once=1), url=one.url, deadline_s=0.3))
    assert [each.status for each in found.outcomes] == ["failed"] * 3
    assert sum("not run" in each.words for each in found.outcomes) == 2
    assert found.unreachable, "nobody ever answered"
    assert found.exit_code() == 3


async def test_secrets_are_in_no_output() -> None:
    async with shop() as one:
        environ = {"KEY": "very/secret value", "DB": "postgresql://u:hunter22@127.0.0.1:1/x"}
        found = await _run(
            one,
            {"id": "a", **_ORDER, "headers": {"Authorization": "Bearer wrong ${token}"}},
            {"id": "b", "kind": "http", "path": "/orders/${env.KEY}"},
            {"id": "c", "kind": "sql", "database": "DB", "statements": ["select 1"]},
            {"id": "d", "kind": "command", "argv": ["sh", "-c", "echo $KEY; exit 1"], "environment": ["KEY"]},
            environ=environ | {"PATH": os.environ["PATH"]},
        )  # fmt: skip
    assert [each.status for each in found.outcomes] == ["failed"] * 4
    assert "***" in found.outcomes[0].words
    assert "***" in found.outcomes[3].words
    for shown in (
        report.text(found),
        json.dumps(report.plain(found), default=str),
        report.junit(found).decode(),
    ):
        for secret in (_TOKEN, "very/secret", "hunter22", "very%2Fsecret"):
            assert secret not in shown


async def test_what_is_not_given_is_skipped_and_said() -> None:
    found = await verify(
        Run(
            spec=_spec(
                {"id": "a", "kind": "http", "url": "${env.NOWHERE}/x"},
                {"id": "b", "kind": "http", "url": "http://x/${token}"},
                {"id": "c", "kind": "http", "path": "/x"},
                {"id": "d", "kind": "certificates"},
                {"id": "e", "kind": "sql", "database": "NO_DB", "statements": ["select 1"]},
            )
        )
    )
    assert {each.status for each in found.outcomes} == {"skipped"}
    words = " ".join(each.words for each in found.outcomes)
    for name in ("NOWHERE", "'token'", "no URL", "no service speaks TLS", "NO_DB"):
        assert name in words
    assert found.exit_code() == 1, "nothing was checked, so nothing is good"


async def test_a_service_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(FinFlowError) as raised:
            await check_reachable(f"http://127.0.0.1:{free.getsockname()[1]}")
    assert (raised.value.kind.code, raised.value.kind.exit_code) == ("service_unreachable", 3)
    for url in ("ftp://x", "nonsense", "http://", "http://[::1"):
        with pytest.raises(FinFlowError) as raised:
            await check_reachable(url)
        assert raised.value.kind.code == "setting_malformed"


# --- certificates ---


@pytest.mark.parametrize(
    ("host", "days", "trusted", "words"),
    [
        ("localhost", 90, True, None),
        ("localhost", 5, True, "expires in 5.0 days, less than 14"),
        ("localhost", -2, True, "certificate has expired"),
        ("other.example", 90, True, "Hostname mismatch"),
        ("localhost", 90, False, "unable to get local issuer certificate"),
    ],
)
async def test_certificates_are_looked_at(
    tmp_path: Path, host: str, days: float, trusted: bool, words: str | None
) -> None:
    authority = Authority(tmp_path)
    _, context = authority.issue(host, days)
    async with shop(context) as one:
        found = await _one(
            None,
            {
                "kind": "certificates", "environment": ["SHOP"],
                **({"authority": str(authority.root)} if trusted else {}),
            },
            environ={"SHOP": one.url.replace("127.0.0.1", "localhost")},
        )  # fmt: skip
    assert found.status == ("failed" if words else "passed"), found.words
    assert (words or "the first expires in 90 days") in found.words


async def test_certificate_files_are_looked_at(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "served").mkdir()
    for host, days in (("a.example", 40), ("b.example", 3), ("c.example", -3)):
        made, _ = authority.issue(host, days)
        made.rename(tmp_path / "served" / made.name)
    found = await _one(None, {"kind": "certificates", "files": [f"{tmp_path}/served/*.pem", "/no/such.pem"]})
    assert found.status == "failed"
    for words in (
        "b.example-3.pem: expires in 3.0 days",
        "c.example--3.pem: expired 3 days ago",
        "no such file",
    ):
        assert words in found.words
    assert "a.example" not in found.words
    good = await _one(None, {"kind": "certificates", "files": [f"{tmp_path}/served/a*.pem"]})
    assert good.status == "passed"


async def test_a_database_without_tls_is_found(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
        writer.write(b"N")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await _one(
            None,
            {"kind": "certificates", "environment": ["DB"]},
            environ={"DB": f"postgresql://u:pass@127.0.0.1:{port}/x?sslmode=require"},
        )
    assert found.status == "failed"
    assert "does not speak TLS" in found.words


# --- databases ---


async def test_databases_are_read_and_written_and_left_as_they_were(database_url: str) -> None:
    environ = {"DB": database_url}
    write = {
        "kind": "sql", "database": "DB", "writes": True, "arguments": ["verified"],
        "statements": ["insert into tenants (name, created_at) values ($1, now())"],
    }  # fmt: skip
    assert (await _one(None, write, environ=environ)).status == "passed"
    read = {"kind": "sql", "database": "DB", "statements": ["select count(*) as n from tenants"]}
    assert (
        await _one(None, {**read, "expect": {"rows": 1, "first": {"n": 0}}}, environ=environ)
    ).status == "passed"
    wrong = await _one(None, {**read, "expect": {"first": {"n": 7}}}, environ=environ)
    assert wrong.words == "the first row: /n is 0, not 7"
    sneaky = await _one(
        None, {**write, "writes": False, "statements": ["delete from heads where $1 = ''"]}, environ=environ
    )
    assert "read-only transaction" in sneaky.words
    idle = {**write, "statements": ["update heads set seq = 1 where $1 = ''"]}
    assert (await _one(None, idle, environ=environ)).words == "statement 1 touched no row"
    broken = await _one(None, {**read, "statements": ["select nothing from nowhere"]}, environ=environ)
    assert 'relation "nowhere" does not exist' in broken.words
    few = await _one(None, {**read, "arguments": [1]}, environ=environ)
    assert "takes 0 arguments, and has 1" in few.words


async def test_a_read_only_database_fails_the_write_path(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set default_transaction_read_only = on")
    await connection.close()
    bank = loading.parse(loading.shipped("bank"))
    found = await verify(Run(spec=bank, tags=["database"], environ={"FINFLOW_DATABASE_URL": database_url}))
    status = {each.id: each.status for each in found.outcomes}
    assert status == {"database-read": "passed", "database-primary": "failed", "database-write": "failed"}


async def test_a_database_that_is_down_fails(short_folder: Path) -> None:
    found = await _one(
        None,
        {"kind": "sql", "database": "DB", "statements": ["select 1"]},
        environ={"DB": f"postgresql://u:geheim@/x?host={short_folder}/none"},
    )
    assert found.status == "failed"
    assert "geheim" not in found.words


async def test_a_statement_that_waits_for_a_lock_gives_up(database_url: str) -> None:
    holder = await asyncpg.connect(database_url)
    async with holder.transaction():
        await holder.execute("lock table tenants in access exclusive mode")
        found = await _one(
            None,
            {"kind": "sql", "database": "DB", "statements": ["select 1 from tenants"]},
            environ={"DB": database_url},
        )
    await holder.close()
    assert "lock timeout" in found.words


# --- queues ---


async def test_queues_move_or_are_stuck(database_url: str) -> None:
    fast: dict[str, Any] = {"kind": "progress", "every_s": 0.02, "within_s": 0.3}
    metric = {"from": "metric", "metric": "jobs_total"}
    async with shop() as one:
        moving = await _one(
            one, {**fast, "reading": {**metric, "labels": {"queue": "a"}}, "advances_by": 3, "within_s": 10}
        )
        assert moving.status == "passed"
        stuck = await _one(
            one, {**fast, "reading": {**metric, "labels": {"queue": "stuck"}}, "advances_by": 1}
        )
        assert stuck.words == "stuck: from 4 to 4 in 0.3 s, not by 1"
        none = await _one(one, {**fast, "reading": {**metric, "labels": {"queue": "no"}}, "advances_by": 1})
        assert "no sample of jobs_total" in none.words
        lag = {**fast, "reading": {"from": "metric", "metric": "lag_seconds"}}
        assert (await _one(one, {**lag, "at_most": 12.5, "hold_s": 0.1})).status == "passed"
        assert "12.5 after 0.3 s, not at most 12" in (await _one(one, {**lag, "at_most": 12})).words
    rows = {
        **fast,
        "reading": {"from": "sql", "database": "DB", "statement": "select count(*) from settlement_work"},
    }
    environ = {"DB": database_url}
    assert (await _one(None, {**rows, "at_most": 0}, environ=environ)).status == "passed"
    assert (await _one(None, {**rows, "advances_by": 1}, environ=environ)).status == "failed"


async def test_the_bank_finds_its_settlement_stuck(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "insert into tenants (tenant_no, name, created_at) overriding system value values (1, 'a', now());"
        "insert into ledgers (ledger_no, tenant_no, name, created_at) overriding system value"
        " values (1, 1, 'a', now());"
        "insert into settlement_work (ledger_no, kind, number, due_at)"
        " values (1, 'cycle', 1, now() - interval '5 min')"
    )  # fmt: skip
    await connection.close()
    text = loading.shipped("bank").replace("within_s: 20", "within_s: 0.5")
    bank = loading.parse(text)
    found = await verify(Run(spec=bank, tags=["queue"], environ={"FINFLOW_DATABASE_URL": database_url}))
    status = {each.id: each.status for each in found.outcomes}
    assert (status["settlement-moving"], status["settlement-failing"]) == ("failed", "passed")


# --- alerts and commands ---


async def test_the_path_of_alerts_is_followed() -> None:
    async with shop() as one:
        check: dict[str, Any] = {
            "kind": "heartbeat", "send_url": f"{one.url}/api/v2/alerts",
            "json": [{"labels": {"run": "${run}"}}],
            "seen": {"url": f"{one.url}/api/v2/alerts", "text": "${run}"}, "within_s": 0.4, "every_s": 0.05,
        }  # fmt: skip
        assert (await _one(one, check)).status == "passed"
        one.lose_alerts = True
        lost = await _one(one, check)
        assert "has not arrived within 0.4 s" in lost.words
        gone = await _one(one, {**check, "send_url": f"{one.url}/nothing"})
        assert "the alert was not taken: status 404" in gone.words


async def test_a_webhook_is_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check = {
        "kind": "heartbeat", "send_url": f"http://127.0.0.1:{port}/hook", "json": {"run": "${run}"},
        "listen_port": port, "within_s": 5,
    }  # fmt: skip
    assert (await _one(None, check)).status == "passed"
    silent = {"kind": "heartbeat", "listen_port": port, "within_s": 0.2}
    assert "nobody called" in (await _one(None, silent)).words


async def test_commands_are_judged_by_exit_code_and_words() -> None:
    environ = {"PATH": os.environ["PATH"], "SECRET_X": "not-passed-on"}
    python = [sys.executable, "-c"]
    for program, rest, status, words in (
        ("print('fine')", {"stdout_text": "fine"}, "passed", "exit code 0"),
        ("print('bad'); exit(3)", {}, "failed", "exit code 3, not 0: bad"),
        ("exit(3)", {"exit_code": 3}, "passed", "exit code 3"),
        ("import os; print(os.environ.get('SECRET_X'))", {"stdout_text": "None"}, "passed", "exit code 0"),
        ("import time; time.sleep(60)", {"timeout_s": 0.5}, "failed", "within 0.5 s"),
        ("while True: print('x' * 9999)", {}, "failed", "more than 1 MiB"),
    ):
        found = await _one(None, {"kind": "command", "argv": [*python, program], **rest}, environ=environ)
        assert found.status == status, found.words
        assert words in found.words
    missing = await _one(None, {"kind": "command", "argv": ["no-such-program"]}, environ=environ)
    assert "no-such-program" in missing.words


# --- as a gate of a rollout ---


async def test_the_smoke_set_as_a_gate() -> None:
    spec = _spec(
        {"id": "ready", "kind": "http", "path": "/ready", "tags": ["smoke"]},
        {"id": "give", **_ORDER, "tags": ["smoke"]},
        {"id": "rest", "kind": "http", "path": "/nothing"},
    )
    prepared = 0

    async def prepare() -> dict[str, str]:
        nonlocal prepared
        prepared += 1
        return {"token": _TOKEN}

    async with shop() as one:
        settings = SmokeSettings(spec=spec, url=one.url, headers={"X-Canary": "candidate"})
        good = await SmokeCheck(settings, prepare).judge()
        assert (good.gate, good.verdict, good.numbers["passed"]) == ("smoke", Verdict.PASS, 2)
        assert {headers.get("X-Canary") for _, _, headers in one.requests} == {"candidate"}
        assert prepared == 1
        left_out = await SmokeCheck(settings).judge()
        assert left_out.verdict is Verdict.INCONCLUSIVE, "a check without its token is not a pass"
        one.not_ready_left = 100
        bad = await SmokeCheck(settings, prepare).judge()
        assert bad.verdict is Verdict.FAIL
        assert bad.words.startswith("ready failed: status 503")
    gone = await SmokeCheck(settings, prepare).judge()
    assert gone.verdict is Verdict.ERROR

    async def refused() -> dict[str, str]:
        raise FinFlowError("token_missing")

    assert (await SmokeCheck(settings, refused).judge()).verdict is Verdict.ERROR
