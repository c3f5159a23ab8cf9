"""The order of one account's rows within one day, found from the balance that each row carries. Pure.

A row leads from one balance to another, so a day is a path that starts at the balance of the evening
before and uses every row once. The search is exact: it tries paths with as few rounded steps as there
can be, exact steps before rounded ones, file order before any other, and remembers dead ends.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

MAX_STEPS: Final = 200_000


class Move(NamedTuple):
    """One row for the search, in minor units: the signed amount, and the file's balance after it."""

    amount: int
    balance: int


class Step(NamedTuple):
    """One row in its turn: its position in the day as given, and its rounding (0 or +-tolerance)."""

    position: int
    rounding: int


def chain(start: int, moves: Sequence[Move], tolerance: int = 0) -> list[Step] | None:
    """The steps from balance `start` through every move, or None where no order explains the balances.

    `tolerance` is in minor units; a step may be off by exactly that much, up or down, or not at all.
    None also stands for a search that took more than MAX_STEPS.
    """
    if len(moves) == 1:
        # Four accounts in five have one row a day: no search.
        rounding = moves[0].balance - moves[0].amount - start
        return [Step(0, rounding)] if rounding == 0 or abs(rounding) == tolerance else None
    return _Search(moves, tolerance).shortest(start)


def anchor(moves: Sequence[Move], tolerance: int = 0) -> list[Step] | None:
    """The steps of a day whose first balance is unknown: an order that at least agrees with itself.

    The earliest row in the file that can begin such an order begins it; the first step needs no rounding.
    """
    search = _Search(moves, tolerance)
    # A dictionary keeps the order of the file and each start once.
    for start in dict.fromkeys(move.balance - move.amount for move in moves):
        steps = search.shortest(start)
        if steps is not None or search.exhausted:
            return steps
    return None


class _Search:
    """Depth first over the moves that fit the present balance, without recursion."""

    def __init__(self, moves: Sequence[Move], tolerance: int) -> None:
        self._moves = moves
        self._tolerance = tolerance
        self._from: dict[int, list[int]] = defaultdict(list)
        for index, move in enumerate(moves):
            self._from[move.balance - move.amount].append(index)
        self._steps_left = MAX_STEPS

    @property
    def exhausted(self) -> bool:
        return self._steps_left <= 0

    def shortest(self, start: int) -> list[Step] | None:
        """The path with the fewest rounded steps, or None."""
        most = len(self._moves) if self._tolerance else 0
        for allowed in range(most + 1):
            steps = self.run(start, allowed)
            if steps is not None or self.exhausted:
                return steps
        return None

    def run(self, start: int, allowed: int) -> list[Step] | None:
        """A path with at most `allowed` rounded steps, or None."""
        path: list[Step] = []
        used = 0
        dead: set[tuple[int, int, int]] = set()
        options = [self._options(start, used, allowed)]
        while options and not self.exhausted:
            self._steps_left -= 1
            step = next(options[-1], None)
            if step is None:
                options.pop()
                if path:
                    undone = path.pop()
                    dead.add(self._state(undone.position, used, allowed))
                    used &= ~(1 << undone.position)
                    allowed += undone.rounding != 0
                continue
            left = allowed - (step.rounding != 0)
            now = used | 1 << step.position
            if self._state(step.position, now, left) in dead:
                continue
            path.append(step)
            used, allowed = now, left
            if len(path) == len(self._moves):
                return path
            options.append(self._options(self._moves[step.position].balance, used, allowed))
        return None

    def _state(self, index: int, used: int, allowed: int) -> tuple[int, int, int]:
        return self._moves[index].balance, used, allowed

    def _options(self, balance: int, used: int, allowed: int) -> Iterator[Step]:
        """Steps that lead on from a balance: exact ones first, each kind in file order."""
        tolerance = self._tolerance
        roundings = (0, tolerance, -tolerance) if tolerance and allowed else (0,)
        for rounding in roundings:
            for index in self._from.get(balance + rounding, ()):
                if not used >> index & 1:
                    yield Step(index, rounding)
