"""One contract for every router: in memory, Caddy and HAProxy, these two for real and under load."""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from finflow.app.ingresses import ingress_of, traffic_log_of
from finflow.kernel.errors import FinFlowError
from finflow.rollout.buckets import bucket_of
from finflow.rollout.fake_ingress import FakeIngress, FakeRouter
from finflow.rollout.ingress_spec import CaddySpec, HaproxySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.caddy import caddy_program
from finflow.stack.ingress.local import LocalIngress
from oracles.routing import Backend, Connection, Failed, Load, backends

BASELINE, CANDIDATE = Side.BASELINE, Side.CANDIDATE
CUSTOMERS = [f"cus_{number}" for number in range(2_000)]


@dataclass
class Rig:
    """A router under test, the backends behind it, and a way to send requests through it."""

    kind: str
    ingress: FakeIngress | LocalIngress  # type: ignore[type-arg] # any of them
    old: Backend
    new: Backend
    folder: Path

    @property
    def real(self) -> LocalIngress:  # type: ignore[type-arg] # any of them
        assert isinstance(self.ingress, LocalIngress)
        return self.ingress

    def another(self) -> FakeIngress | LocalIngress:  # type: ignore[type-arg] # any of them
        """What the next controller would have."""
        if isinstance(self.ingress, FakeIngress):
            return FakeIngress(self.ingress.router)
        return type(self.ingress)(self.ingress.spec, self.folder)

    async def sides(self, customers: list[str], *headers: tuple[str, str]) -> dict[str, str]:
        """Which side serves each customer."""
        if isinstance(self.ingress, FakeIngress):
            override = dict(headers).get("X-Finflow-Side", "")
            return {each: self.ingress.router.request(each, override=override) for each in customers}
        found: dict[str, str] = {}

        async def ask(part: list[str]) -> None:
            connection = Connection(self.real.port)
            for customer in part:
                named = [("X-Customer-Id", customer)] if customer else []
                status, answer = await connection.send([*named, *headers])
                assert status == 200, answer
                found[customer] = str(answer["name"])
            connection.close()

        await asyncio.gather(*(ask(customers[start::16]) for start in range(16)))
        return found

    def as_tester(self, side: str) -> list[tuple[str, str]]:
        """What somebody sends who may read the router's folder."""
        path = self.folder / "tester-secret"
        secret = path.read_text() if path.exists() else ""
        return [("X-Finflow-Side", side), ("X-Finflow-Side-Secret", secret)]

    async def on_candidate(self) -> set[str]:
        sides = await self.sides(CUSTOMERS)
        return {customer for customer, side in sides.items() if side == CANDIDATE}


def _missing(kind: str) -> str | None:
    if kind == "haproxy" and not shutil.which("haproxy", path=f"{os.environ.get('PATH')}:/usr/sbin"):
        return "HAProxy is not installed"
    if kind == "caddy":
        try:
            caddy_program()
        except FinFlowError as error:
            return error.detail
    return None


SECRET_NAME = "FINFLOW_TEST_SIDE_SECRET"  # noqa: S105 - the name of a variable
SPECS = {"caddy": CaddySpec, "haproxy": HaproxySpec}


@asynccontextmanager
async def _rig(kind: str, folder: Path) -> AsyncIterator[Rig]:
    async with backends("baseline", "candidate") as (old, new):
        if kind == "fake":
            yield Rig(kind, FakeIngress(FakeRouter()), old, new, folder)
            return
        if missing := _missing(kind):
            pytest.skip(missing)
        ingress = ingress_of(SPECS[kind](), folder)
        assert isinstance(ingress, LocalIngress)
        try:
            await ingress.start(baseline=[old.endpoint])
            yield Rig(kind, ingress, old, new, folder)
        finally:
            await ingress.stop()


@pytest.fixture(scope="module", params=["fake", "caddy", "haproxy"])
async def routed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    async with _rig(request.param, tmp_path_factory.mktemp("ingress") / "router") as rig:
        yield rig


@pytest.fixture
async def rig(routed: Rig) -> Rig:
    """As after a start: everything on the baseline, the candidate ready."""
    await routed.ingress.set_backends(BASELINE, [routed.old.endpoint])
    await routed.ingress.set_weight(0)
    await routed.ingress.set_backends(CANDIDATE, [routed.new.endpoint])
    return routed


@pytest.fixture
def router(rig: Rig) -> Rig:
    if rig.kind == "fake":
        pytest.skip("the fake has no process and no sockets")
    return rig


async def test_the_split_is_sticky_monotone_and_of_its_size(rig: Rig) -> None:
    before: set[str] = set()
    for weight_bp in (500, 2_500, 5_000):
        await rig.ingress.set_weight(weight_bp)
        now = await rig.on_candidate()
        assert before <= now
        share = weight_bp / 10_000
        # Five standard deviations of as many independent customers.
        allowed = 5 * math.sqrt(share * (1 - share) * len(CUSTOMERS))
        assert abs(len(now) - share * len(CUSTOMERS)) < allowed
        before = now
    assert await rig.on_candidate() == before
    await rig.ingress.set_weight(10_000)
    assert await rig.on_candidate() == set(CUSTOMERS)
    await rig.ingress.set_weight(0)
    assert await rig.on_candidate() == set()


async def test_a_weight_is_read_back_as_it_was_set(rig: Rig) -> None:
    for weight_bp in (1, 33, 500, 9_999, 10_000, 0):
        await rig.ingress.set_weight(weight_bp)
        assert await rig.ingress.weight() == weight_bp
        assert await rig.another().weight() == weight_bp


@pytest.mark.parametrize("weight_bp", [-1, 10_001])
async def test_an_impossible_weight_is_refused(rig: Rig, weight_bp: int) -> None:
    await rig.ingress.set_weight(700)
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await rig.ingress.set_weight(weight_bp)
    assert await rig.ingress.weight() == 700


async def test_no_side_that_is_sent_requests_is_without_processes(rig: Rig) -> None:
    await rig.ingress.set_weight(700)
    for side in Side:
        with pytest.raises(FinFlowError, match="ingress_refused"):
            await rig.ingress.set_backends(side, [])
    await rig.ingress.set_weight(0)
    await rig.ingress.set_backends(CANDIDATE, [])
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await rig.ingress.set_weight(1)
    assert await rig.ingress.weight() == 0
    assert list(await rig.ingress.backends(CANDIDATE)) == []


async def test_backends_are_read_back(rig: Rig) -> None:
    many = [Endpoint("127.0.0.1", 20_000 + number) for number in range(7)]
    await rig.ingress.set_backends(CANDIDATE, many)
    assert sorted(await rig.another().backends(CANDIDATE)) == many
    await rig.ingress.set_backends(CANDIDATE, [rig.new.endpoint])
    assert list(await rig.ingress.backends(CANDIDATE)) == [rig.new.endpoint]
    assert list(await rig.ingress.backends(BASELINE)) == [rig.old.endpoint]


async def test_testers_choose_their_side(rig: Rig) -> None:
    for weight_bp in (0, 10_000):
        await rig.ingress.set_weight(weight_bp)
        for side in Side:
            assert await rig.sides(["cus_1"], *rig.as_tester(side)) == {"cus_1": side}
    await rig.ingress.set_weight(0)
    assert await rig.sides(["cus_1"], *rig.as_tester("candidates")) == {"cus_1": BASELINE}


@pytest.mark.parametrize("secret", [None, "", "0" * 64])
async def test_nobody_else_chooses_a_side(router: Rig, secret: str | None) -> None:
    """As it comes out of the box: an outsider knows the header, and not what lies in the router's folder."""
    given = [("X-Finflow-Side", "candidate")]
    given += [] if secret is None else [("X-Finflow-Side-Secret", secret)]
    assert await router.sides(["cus_1"], *given) == {"cus_1": BASELINE}
    await router.real.reload()
    assert await router.sides(["cus_1"], *given) == {"cus_1": BASELINE}
    assert await router.sides(["cus_1"], *router.as_tester("candidate")) == {"cus_1": CANDIDATE}
    kept = router.folder / "tester-secret"
    assert (len(kept.read_text()), kept.stat().st_mode & 0o777) == (64, 0o600)


async def test_who_has_no_key_moves_with_the_last(rig: Rig) -> None:
    await rig.ingress.set_weight(9_999)
    assert await rig.sides([""]) == {"": BASELINE}
    await rig.ingress.set_weight(10_000)
    assert await rig.sides([""]) == {"": CANDIDATE}


async def test_every_request_is_counted_and_told_once(rig: Rig) -> None:
    log = rig.ingress if isinstance(rig.ingress, FakeIngress) else traffic_log_of(rig.ingress)
    assert log is not None
    await rig.ingress.set_weight(3_000)
    await _settled(rig)
    await log.fresh()
    before = await rig.ingress.routed()
    sides = await rig.sides(CUSTOMERS)
    await rig.sides([""])
    expected = {side: list(sides.values()).count(side) + (side == BASELINE) for side in Side}
    await _settled(rig)
    after = await rig.ingress.routed()
    assert {side: after[side] - before[side] for side in Side} == expected
    told = await log.fresh()
    assert {side: sum(each.side is side for each in told) for side in Side} == expected
    assert len({each.customer for each in told if each.customer}) == len(CUSTOMERS)
    assert sum(not each.customer for each in told) == 1
    assert {each.status for each in told} == {200}
    assert all(each.duration_s >= 0 for each in told)
    assert list(await log.fresh()) == []
    assert await rig.another().routed() == after


async def _settled(rig: Rig) -> None:
    """A router writes its line after the answer: wait until no more come."""
    last: object = None
    while (now := await rig.ingress.routed()) != last:
        last = now
        await asyncio.sleep(0 if rig.kind == "fake" else 0.3)


async def test_a_router_that_is_silent_is_unreachable(rig: Rig, tmp_path: Path) -> None:
    if isinstance(rig.ingress, FakeIngress):
        silent = FakeIngress(FakeRouter())
        silent.router.reachable = False
    else:
        silent = type(rig.ingress)(rig.ingress.spec, tmp_path / "nobody")
    for asked in (silent.weight, silent.routed, silent.reload, lambda: silent.set_weight(0)):
        with pytest.raises(FinFlowError, match="ingress_unreachable"):
            await asked()


# --- what only a real router can be asked ---


async def test_no_request_fails_while_everything_changes(router: Rig) -> None:
    """Weights, reloads, a second process for each side, the first one drained, all under load."""
    ingress = router.real
    async with backends("baseline", "candidate") as (old, new):
        async with Load(ingress.port).running() as load:
            for weight_bp in (500, 2_500, 5_000, 10_000, 0, 5_000):
                await ingress.set_weight(weight_bp)
                await asyncio.sleep(0.15)
            await ingress.reload()
            assert await ingress.weight() == 5_000
            for side, first, second in ((BASELINE, router.old, old), (CANDIDATE, router.new, new)):
                await ingress.set_backends(side, [first.endpoint, second.endpoint])
                await asyncio.sleep(0.15)
                await ingress.set_backends(side, [second.endpoint])
                await first.stop()
                await asyncio.sleep(0.15)
            await ingress.reload()
            for side, backend in ((BASELINE, router.old), (CANDIDATE, router.new)):
                await backend.start()
                await ingress.set_backends(side, [backend.endpoint])
            await asyncio.sleep(0.15)
        assert load.failures == []
        assert load.sides["baseline"] > 0
        assert load.sides["candidate"] > 0
        executed = sum(
            (each.executed for each in (router.old, router.new, old, new)), start=old.executed - old.executed
        )
        assert {number: executed[number] for number in load.sent} == dict.fromkeys(load.sent, 1)


async def test_a_reload_is_heard_of_while_the_configuration_before_still_answers(router: Rig) -> None:
    """Both tell their count for a while; the old one's must not be taken for the router's."""
    before = await router.real.reloads()
    reloading, told = asyncio.ensure_future(router.real.reload()), []
    while not reloading.done():
        with contextlib.suppress(FinFlowError):
            told.append(await router.real.reloads())
        await asyncio.sleep(0.005)
    await reloading
    told.append(await router.real.reloads())
    assert told == sorted(told)
    assert (told[-1], set(told) - {before}) == (before + 1, {before + 1})


async def test_an_abort_brings_every_customer_back_at_once(router: Rig) -> None:
    """Also those whose connections were made before, and before a reload."""
    await router.real.set_weight(10_000)
    open_before = [Connection(router.real.port) for _ in range(20)]
    for number, connection in enumerate(open_before):
        assert (await connection.send([("X-Customer-Id", str(number))]))[1]["name"] == "candidate"
    await router.real.reload()
    await router.real.set_weight(0)
    late = set()
    for number, connection in enumerate(open_before):
        # An idle connection may have been closed by a reload.
        with contextlib.suppress(Failed):
            late.add((await connection.send([("X-Customer-Id", str(number))]))[1]["name"])
        connection.close()
    assert late <= {"baseline"}
    assert await router.on_candidate() == set()


async def test_a_post_is_never_sent_twice(router: Rig) -> None:
    async with backends("candidate") as (rude,):
        rude.drops = True
        await router.real.set_backends(CANDIDATE, [rude.endpoint])
        await router.real.set_weight(10_000)
        connection = Connection(router.real.port)
        status, _ = await connection.send([("X-Number", "once"), ("Idempotency-Key", "k")])
        connection.close()
        assert status == 502
        assert rude.executed["once"] == 1


async def test_a_dead_process_costs_nobody_an_answer(router: Rig) -> None:
    async with backends("baseline", "baseline") as (one, two):
        await router.real.set_backends(BASELINE, [one.endpoint, two.endpoint])
        async with Load(router.real.port, connections=8).running() as load:
            await asyncio.sleep(0.2)
            await two.stop()
            await asyncio.sleep(0.2)
            # What was under way on a kept connection when the process closed it cannot be known to be
            # undone, so no router sends it again: at most one for each connection.
            lost = len(load.failures)
            assert lost <= 8, load.failures
            await asyncio.sleep(1.0)
        assert len(load.failures) == lost
        fresh = await router.sides(CUSTOMERS[:200])
        assert set(fresh.values()) == {"baseline"}


async def test_the_router_outlives_its_controller(router: Rig, tmp_path: Path) -> None:
    """Started by a process that is killed; found again, with its weight, by another."""
    folder = tmp_path / "router"
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nimport msgspec\n"
        "from finflow.app.ingresses import ingress_of\nfrom finflow.rollout.ingress_spec import IngressSpec\n"
        "from finflow.rollout.ports import Endpoint\n"
        "async def main():\n"
        f"    spec = msgspec.convert({{'kind': {router.kind!r}}}, IngressSpec)\n"
        f"    ingress = ingress_of(spec, Path({str(folder)!r}))\n"
        f"    ends = [Endpoint('127.0.0.1', {router.old.port})], [Endpoint('127.0.0.1', {router.new.port})]\n"
        "    await ingress.start(*ends)\n    await ingress.set_weight(2500)\n"
        "    print('up', flush=True)\n    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    controller = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", script], stdout=subprocess.PIPE
    )
    try:
        assert controller.stdout is not None
        assert await asyncio.to_thread(controller.stdout.readline) == b"up\n"
        found = type(router.real)(router.real.spec, folder)
        process = found.running()
        async with Load(found.port, connections=4).running() as load:
            controller.kill()
            await asyncio.to_thread(controller.wait)
            await asyncio.sleep(0.3)
            await found.start()
            assert found.running() == process
            assert await found.weight() == 2_500
            assert list(await found.backends(CANDIDATE)) == [router.new.endpoint]
            await found.set_weight(0)
        assert load.failures == []
        assert sum((await found.routed()).values()) > 0
    finally:
        controller.kill()
        controller.wait()
        if controller.stdout is not None:
            controller.stdout.close()
        await type(router.real)(router.real.spec, folder).stop()


async def test_a_killed_router_comes_back_as_it_was(router: Rig) -> None:
    ingress, port = router.real, router.real.port
    await ingress.set_weight(4_200)
    kept = await router.on_candidate()
    process = ingress.running()
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    while ingress.running() is not None:
        await asyncio.sleep(0.02)
    with pytest.raises(FinFlowError, match="ingress_unreachable"):
        await ingress.weight()
    await router.another().start()  # type: ignore[union-attr] # a real one
    assert (ingress.port, await ingress.weight()) == (port, 4_200)
    assert list(await ingress.backends(CANDIDATE)) == [router.new.endpoint]
    assert await router.on_candidate() == kept


HOSTILE = {
    "unicode": "kundin-ß-€-𝄞",
    "long": "x" * 6_000,
    "quotes": "'\"{}`$(id);--%0d%0a{http.request.host}",
    "not utf-8": b"\xff\xfe\x80".decode("utf-8", "surrogateescape"),
    "commas": "a, b,c",
    "numbers": "0x1p10",
}


@pytest.mark.parametrize("key", HOSTILE.values(), ids=HOSTILE)
async def test_any_key_is_answered_and_sticky(router: Rig, key: str) -> None:
    sides = []
    for weight_bp in (0, 5_000, 5_000, 10_000):
        await router.real.set_weight(weight_bp)
        sides.append((await router.sides([key]))[key])
    assert (sides[0], sides[3]) == ("baseline", "candidate")
    assert sides[1] == sides[2]


async def test_caddy_computes_the_buckets_that_are_tested_for_evenness(router: Rig) -> None:
    if router.kind != "caddy":
        pytest.skip("HAProxy has a hash of its own, xxh32")
    await router.real.set_weight(5_000)
    keys = [f"{number}{'k' * (number % 210)}" for number in range(630)]
    keys += ["é" * number for number in range(1, 60)]
    expected = {key: "candidate" if bucket_of(key, 42) < 5_000 else "baseline" for key in keys}
    assert await router.sides(keys) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nX-Customer-Id: a\rb\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX-Customer-Id: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX-Customer-Id: " + b"y" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n",
    ],
    ids=["bare CR", "NUL", "huge", "two lengths", "TLS"],
)
async def test_what_is_not_http_is_refused_and_harms_nobody(router: Rig, raw: bytes) -> None:
    before = router.old.executed.total() + router.new.executed.total()
    connection = Connection(router.real.port)
    # Cutting the connection is a refusal, too.
    with contextlib.suppress(Failed):
        status, _ = await connection.raw(raw)
        assert 400 <= status < 500
    connection.close()
    assert router.old.executed.total() + router.new.executed.total() == before
    assert set((await router.sides(["cus_1"])).values()) == {"baseline"}


async def test_a_client_cannot_speak_for_the_router(router: Rig) -> None:
    """Where a request came from is said by the router alone, and its own words do not reach the service."""
    connection = Connection(router.real.port)
    lies = ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Real-IP"]
    own = [*router.as_tester("candidate"), ("X-Customer-Id", "cus_9")]
    _, answer = await connection.send([*((name, "6.6.6.6") for name in lies), *own])
    connection.close()
    assert answer["name"] == "candidate"
    seen = answer["headers"]
    assert isinstance(seen, dict)
    assert "6.6.6.6" not in str(seen)
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-host"] == "service.test"
    assert seen["x-customer-id"] == "cus_9"
    assert not [name for name in seen if name.startswith("x-finflow")]


async def test_the_log_has_no_customers_paths_or_tokens(router: Rig) -> None:
    connection = Connection(router.real.port)
    told = [("X-Customer-Id", "cus_verysecret"), ("Authorization", "Bearer tokensecret")]
    assert (await connection.send(told, path="/accounts/pathsecret?key=querysecret"))[0] == 200
    connection.close()
    await _settled(router)
    texts = [path.read_text(errors="replace") for path in router.folder.glob("*.log")]
    assert any('"side"' in text for text in texts)
    assert not [text for text in texts if "secret" in text]


async def test_bodies_are_bounded(router: Rig, tmp_path: Path) -> None:
    spec = SPECS[router.kind](body_max_bytes=1_000, override_secret_env=SECRET_NAME)
    os.environ[SECRET_NAME] = "open sesame"
    ingress = type(router.real)(spec, tmp_path / "bounded")
    try:
        await ingress.start([router.old.endpoint], [router.new.endpoint])
        connection = Connection(ingress.port)
        assert (await connection.send(body=b"x" * 1_000))[0] == 200
        status, _ = await connection.send(body=b"x" * 1_001)
        assert status == 413
        connection.close()
        # The same router, for its other setting: who does not know the secret is routed like everybody.
        for secret, name in (("", "baseline"), ("wrong", "baseline"), ("open sesame", "candidate")):
            given = [("X-Finflow-Side", "candidate"), ("X-Finflow-Side-Secret", secret)]
            assert (await connection.send(given))[1]["name"] == name
        connection.close()
        assert "open sesame" not in "".join(
            path.read_text() for path in ingress.folder.root.glob("*.*") if path.is_file()
        )
    finally:
        await ingress.stop()
        del os.environ[SECRET_NAME]
    with pytest.raises(FinFlowError, match="setting_malformed"):
        await ingress.start()


async def test_a_port_in_use_is_refused(router: Rig, tmp_path: Path) -> None:
    spec = SPECS[router.kind](port=router.real.port)
    with pytest.raises(FinFlowError, match="port_taken"):
        await type(router.real)(spec, tmp_path / "second").start([router.old.endpoint])
