"""Many single questions become few: who asks while an answer is made is in the next."""

import asyncio
from collections.abc import Sequence

import pytest

from finflow.db import gathering as room
from finflow.db.gathering import Gathering
from finflow.kernel.errors import FinFlowError


class Doubler:
    """Doubles numbers when it is let; keeps what it was asked together."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, asked: Sequence[int]) -> list[int]:
        self.rounds.append(list(asked))
        await self.gate.wait()
        if 13 in asked:
            raise FinFlowError("database_unreachable")
        return [2 * each for each in asked]


async def asking(gathering: Gathering[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(gathering.ask(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_everybody_gets_the_answer_to_what_was_asked() -> None:
    double = Doubler()
    gathering = Gathering("double", double)
    tasks = await asking(gathering, 1)
    tasks += await asking(gathering, 2, 3, 2)
    tasks += await asking(gathering, 4)
    double.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 4, 8]
    assert double.rounds == [[1], [2, 3, 2, 4]]
    assert await gathering.ask(5) == 10


async def test_a_failure_is_told_to_those_it_was_for_and_the_next_go_on() -> None:
    double = Doubler()
    gathering = Gathering("double", double)
    tasks = await asking(gathering, 12)
    tasks += await asking(gathering, 13, 14)
    tasks[2].cancel()
    double.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == 24
    assert isinstance(outcomes[1], FinFlowError)
    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert await gathering.ask(15) == 30


async def test_who_gives_up_takes_nobody_along() -> None:
    double = Doubler()
    gathering = Gathering("double", double)
    first, second = await asking(gathering, 1, 2)
    first.cancel()
    double.gate.set()
    assert await second == 4


async def test_no_more_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_WAITING", 2)
    double = Doubler()
    gathering = Gathering("double", double)
    tasks = await asking(gathering, 1)
    tasks += await asking(gathering, 2, 3, 4)
    double.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[:3] == [2, 4, 6]
    assert isinstance(outcomes[3], FinFlowError)
    assert outcomes[3].kind.code == "overloaded"


async def test_no_statement_is_larger_than_may_be() -> None:
    double = Doubler()
    double.gate.set()
    gathering = Gathering("double", double, at_once=3)
    assert await asyncio.gather(*(gathering.ask(each) for each in range(8))) == list(range(0, 16, 2))
    assert max(len(asked) for asked in double.rounds) == 3
