"""The demonstration: a bank moves from a hand-run fleet to a new one while its customers pay and convert.

A bank's history is posted and every balance checked. Then live traffic begins and never stops: a first
candidate has a fault, is caught and taken back, and what it booked wrongly is put right; a second one, with a
change of the schema in phases, goes to everybody; the legacy fleet ends; the deployment is verified.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Final, Literal

import msgspec

from finflow.client.administration import LimitsChange
from finflow.client.service import Client
from finflow.demo import acts
from finflow.demo.acts import Candidate, TokenOf
from finflow.demo.books import read_books
from finflow.demo.faulty import FAULT, TARGET
from finflow.demo.history import replay
from finflow.demo.intents import intents
from finflow.demo.model import Summary, percentile
from finflow.demo.scorecard import Scorecard, downtime_ms
from finflow.demo.source import Source
from finflow.demo.stage import Stage, add_contacts
from finflow.demo.traffic import Tally, Traffic
from finflow.demo.world import World, open_world
from finflow.imports.report import LineFault
from finflow.imports.service import bounded_lines
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import State
from finflow.shadow.report import Report

Fault = Literal["loud", "silent"]
LEGACY: Final = "1.0-legacy"
BAD: Final = "2.0-bad"
GOOD: Final = "2.0"
SEED: Final = 2026


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to demonstrate, and how much of it. `on_fault` hears of lines of the history that do
    not fit, `on_trouble` of anything else that is not as it should be.
    """

    source: Source
    fault: Fault = "loud"
    rate_per_s: int = 200
    customers: int = 400
    bake_s: float = 10.0
    max_rows: int | None = None
    on_fault: Callable[[LineFault], None] = lambda fault: None
    on_trouble: Callable[[str], None] = lambda words: None


class Watch:
    """What a screen shows while it goes on: filled by the acts, read by whoever draws."""

    def __init__(self) -> None:
        self.act = ""
        self.traffic: Traffic | None = None
        self.state: State | None = None
        self.shadow: Callable[[], Report | None] = lambda: None

    def hear(self, state: State) -> None:
        self.state = state


class Demonstration:
    """All acts on one stage: `await Demonstration(...).run()`. Raises what anything that should work does."""

    def __init__(self, stage: Stage, plan: Plan, token_of: TokenOf, operator: Client, watch: Watch) -> None:
        self._stage = stage
        self._plan = plan
        self._token_of = token_of
        self._operator = operator
        self._watch = watch
        watch.shadow = lambda: acts.shadow_report(stage)
        legacy = stage.release(LEGACY)
        bad = stage.release(BAD, TARGET, **{FAULT: plan.fault})
        self._bad = acts.spec(stage, legacy, bad, plan.bake_s, acts.money_checks())
        good = stage.release(GOOD)
        self._good = acts.spec(stage, legacy, good, plan.bake_s, acts.all_checks())

    async def run(self, undo: AsyncExitStack) -> Scorecard:
        """What it came to. What runs then, runs until `undo`."""
        began = monotonic()
        self._act("A legacy fleet serves behind the router")
        await acts.open_house(self._stage, self._bad, undo)
        acts.stop_candidates(self._stage, (self._bad, self._good), undo)
        undo.push_async_callback(acts.end_shadow, self._stage)
        summary = await self._history()
        world = await self._world()
        live = _Live(self._stage, self._plan, self._token_of, world)
        self._watch.traffic = live.traffic
        async with live:
            bad = await self._bad_release()
            good = await self._good_release()
            verified = await self._verify()
        accepted = await self._accept()
        card = await live.card(summary, bad, good)
        return msgspec.structs.replace(
            card, verified=verified, accepted=accepted, seconds=round(monotonic() - began, 1)
        )

    def _act(self, words: str) -> None:
        self._watch.act, self._watch.state = words, None

    async def _history(self) -> Summary:
        self._act(f"Replaying {self._plan.source.title}")
        with self._plan.source.path.open("rb") as file:
            return await replay(
                self._operator,
                lambda tenant_id: Client(self._stage.url, token=self._token_of(tenant_id)),
                self._plan.source.mapping,
                bounded_lines(file),
                max_rows=self._plan.max_rows,
                on_fault=self._plan.on_fault,
            )

    async def _world(self) -> World:
        self._act("Customers open accounts")
        tenant = await self._operator.create_tenant("live")
        # A payment may be two requests, and its customers ask for their balances.
        own = LimitsChange(requests_per_s=5 * self._plan.rate_per_s, burst=10 * self._plan.rate_per_s)
        await self._operator.change_limits(tenant.tenant_id, own)
        async with Client(self._stage.url, token=self._token_of(tenant.tenant_id)) as api:
            world = await open_world(api, tenant.tenant_id, self._plan.customers)
        await add_contacts(self._stage.database_url)
        return world

    async def _roll_out(self, wanted: RolloutSpec, words: str) -> Candidate:
        self._act("A shadow of the legacy release is made")
        await acts.begin_shadow(self._stage, LEGACY)
        self._act(words)
        state = await acts.roll_out(self._stage, wanted, self._watch.hear)
        return await acts.looked_back(self._stage, wanted, state)

    async def _bad_release(self) -> Candidate:
        found = await self._roll_out(self._bad, f"Rolling out {BAD}, whose fault is {self._plan.fault}")
        if found.mismatches:
            self._act("What it booked wrongly is put right")
            found = msgspec.structs.replace(found, repaired=await acts.repair(self._stage, self._token_of))
        await acts.end_shadow(self._stage)
        return found

    async def _good_release(self) -> Candidate:
        return await self._roll_out(self._good, f"Rolling out {GOOD}, with a change of the schema in phases")

    async def _verify(self) -> bool:
        self._act("The deployment is verified")
        return await acts.verify(self._stage, self._plan.on_trouble)

    async def _accept(self) -> bool:
        self._act("Settlement is tried end to end on a clone")
        return await acts.accept(self._stage)


class _Live:
    """Live traffic for as long as the block lasts, and what it met."""

    def __init__(self, stage: Stage, plan: Plan, token_of: TokenOf, world: World) -> None:
        self._stage = stage
        wanted = intents(SEED, world.customers)
        token = token_of(world.tenant_id)
        self.traffic = Traffic(stage.url, token, world, wanted, plan.rate_per_s)
        self._stop = asyncio.Event()
        self._sending: asyncio.Task[Tally] | None = None

    async def __aenter__(self) -> None:
        self._sending = asyncio.create_task(self.traffic.run(self._stop))

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._sending is not None, "it was entered"
        await self._sending

    async def card(self, summary: Summary, bad: Candidate, good: Candidate) -> Scorecard:
        """Everything but what is known only later."""
        tally = self.traffic.tally
        books = await read_books(self._stage.database_url, tally.booked)
        facts = {name: getattr(summary, name) for name in summary.__struct_fields__}
        facts["books_balanced"] = summary.books_balanced and books.balanced
        return Scorecard(
            **facts,
            requests=tally.requests,
            failed_requests=max(0, tally.failed - bad.failed_requests),
            given_up=len(tally.lost),
            downtime_ms=downtime_ms(tally.tried),
            p99_ms=round(percentile(tally.latencies_ms, 0.99), 1),
            detect_s=bad.detect_s,
            failed_candidate_requests=bad.failed_requests,
            customers_touched=bad.customers,
            transactions_touched=bad.transactions,
            money_touched=dict(bad.money),
            duplicates=books.duplicates,
            missing=books.missing,
            shadow_compared=bad.compared + good.compared,
            shadow_mismatches=bad.mismatches + good.mismatches,
            repaired=bad.repaired.done if bad.repaired else 0,
            repair_proven=bad.repaired.proven if bad.repaired else bad.mismatches == 0,
            deploy_s=good.deploy_s,
            rolled_back=bad.rolled_back,
            promoted=good.promoted,
        )
