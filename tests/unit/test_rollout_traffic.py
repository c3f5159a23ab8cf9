"""The traffic source: every request of the log counted once, on its side, with its customer's first error."""

import random
from collections.abc import Sequence

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout.gates_spec import ErrorsGate, Gates
from finflow.rollout.judge import Judge, Look
from finflow.rollout.ports import Served
from finflow.rollout.sources.traffic import EDGES_S, TrafficSource
from finflow.rollout.tallies import fault
from finflow.rollout.verdicts import Side, Verdict

_B, _C = Side.BASELINE, Side.CANDIDATE


class _Log:
    def __init__(self, *batches: Sequence[Served]) -> None:
        self._batches = list(batches)

    async def fresh(self) -> Sequence[Served]:
        if not self._batches:
            raise FinFlowError("source_unreachable", "the log is gone")
        return self._batches.pop(0)


def _served(side: Side, customer: str = "", status: int = 200, duration_s: float = 0.02) -> Served:
    return Served(1.0, side, customer, status, duration_s)


async def test_both_sides_are_known_before_anything_was_served() -> None:
    read = await TrafficSource(_Log([])).read()
    assert {side: each.requests for side, each in read.items()} == {_B: 0, _C: 0}
    assert read[_C].latency is not None


async def test_requests_errors_and_durations_add_up_over_readings() -> None:
    dice = random.Random(1)  # noqa: S311 - a simulation is made from its seed
    served = [
        _served(dice.choice([_B, _C]), "", dice.choice([200, 404, 503]), dice.lognormvariate(-4, 1))
        for _ in range(500)
    ]
    source = TrafficSource(_Log(served[:200], served[200:]))
    await source.read()
    for side, reading in (await source.read()).items():
        mine = [each for each in served if each.side is side]
        assert reading.requests == len(mine)
        assert reading.errors == sum(each.status == 503 for each in mine)
        assert reading.latency is not None
        assert reading.latency.sum_s == pytest.approx(sum(each.duration_s for each in mine))
        assert reading.latency.sum_squares_s2 == pytest.approx(sum(each.duration_s**2 for each in mine))
        below = sum(each.duration_s <= EDGES_S[60] for each in mine)
        assert sum(reading.latency.counts[:61]) == below
        assert fault(reading) is None


async def test_a_customers_first_error_counts_once_on_whatever_side_it_was() -> None:
    log = _Log([
        _served(_B, "ann", 500), _served(_B, "ann", 500), _served(_C, "ann", 500), _served(_C, "bob", 502),
        _served(_C, "cid"), _served(_C, "", 500),
    ])  # fmt: skip
    read = await TrafficSource(log).read()
    assert (read[_B].errors, read[_B].customers_failed, read[_B].customers) == (2, 1, 1)
    assert (read[_C].errors, read[_C].customers_failed, read[_C].customers) == (3, 1, 3)


async def test_what_counts_as_an_error_can_be_set_and_no_status_is_one() -> None:
    statuses = [200, 404, 500, 0, -1]
    for least, expected in ((500, 3), (400, 4)):
        log = _Log([_served(_C, "", status) for status in statuses])
        assert (await TrafficSource(log, errors_from_status=least).read())[_C].errors == expected


async def test_memory_of_customers_is_bounded() -> None:
    log = _Log([_served(_C, f"customer-{number}", 500) for number in range(50)])
    reading = (await TrafficSource(log, max_customers=10).read())[_C]
    assert (reading.errors, reading.customers_failed, reading.customers) == (50, 10, 10)


async def test_durations_below_0_are_those_of_a_clock_that_was_set_back() -> None:
    reading = (await TrafficSource(_Log([_served(_B, duration_s=-5.0)])).read())[_B]
    assert reading.latency is not None
    assert (reading.latency.counts[0], reading.latency.sum_s) == (1, 0.0)


async def test_a_log_that_is_gone_is_said_so() -> None:
    with pytest.raises(FinFlowError, match="source_unreachable"):
        await TrafficSource(_Log()).read()


def _sticky(seed: int) -> list[list[Served]]:
    """40 seconds of 200 requests/s by 2,000 customers, 5 % of them on the candidate. Both releases are alike:
    1 customer in 100 fails always, whoever serves; nobody else fails.
    """
    dice = random.Random(seed)  # noqa: S311 - a simulation is made from its seed
    candidate = set(dice.sample(range(2_000), 100))
    failing = set(dice.sample(range(2_000), 20))
    seconds = []
    for _ in range(40):
        customers = [dice.randrange(2_000) for _ in range(200)]
        seconds.append([
            _served(_C if each in candidate else _B, str(each), 500 if each in failing else 200)
            for each in customers
        ])  # fmt: skip
    return seconds


async def _aborted(seed: int, per_customer: bool | None) -> bool:
    seconds = _sticky(seed)
    source = TrafficSource(_Log([], *seconds))
    judge = Judge(Gates(alpha=0.05, rules=(ErrorsGate(per_customer=per_customer),)))
    verdicts = [
        judge.look(Look(float(at), 500, dict(await source.read())))[0].verdict
        for at in range(len(seconds) + 1)
    ]
    return Verdict.FAIL in verdicts


async def test_customers_who_always_fail_do_not_bring_a_good_candidate_down() -> None:
    """By single requests they do: one such customer has a dozen errors, all on one side."""
    counted = sum([await _aborted(seed, None) for seed in range(40)])
    assert counted <= 5  # more than 5 of 40 at 5 % has a probability below 2 %
    by_request = sum([await _aborted(seed, False) for seed in range(40)])
    assert by_request > counted
