"""The log of requests: read as it grows, over rotations, by one reader after another; kept within bounds."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import finflow.stack.ingress.keeper
from finflow.rollout.ports import Served
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.traffic import Tally, TrafficFile

KEEPER = Path(finflow.stack.ingress.keeper.__file__)
NAME = "traffic.log"


def _line(number: int, side: str = "baseline") -> str:
    told = {"ts": float(number), "side": side, "status": 200, "duration": 0.25, "customer_a": f"{number:08x}"}
    return json.dumps(told) + "\n"


def _append(folder: Path, text: str) -> None:
    with (folder / NAME).open("a") as file:
        file.write(text)


def _numbers(served: Iterable[Served]) -> list[int]:
    return [int(each.at_s) for each in served]


async def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    _append(tmp_path, _line(1))
    log = TrafficFile(tmp_path, NAME)
    assert _numbers(await log.fresh()) == []  # before anybody looked
    _append(tmp_path, _line(2) + _line(3)[:20])
    assert await log.fresh() == [Served(2.0, Side.BASELINE, "00000002", 200, 0.25)]
    _append(tmp_path, _line(3)[20:])
    assert _numbers(await log.fresh()) == [3]
    _append(tmp_path, _line(4))
    # The next controller goes on where this one stopped.
    assert _numbers(await TrafficFile(tmp_path, NAME).fresh()) == [4]
    _append(tmp_path, _line(5))
    log.forget()
    assert _numbers(await log.fresh()) == []


async def test_what_is_no_line_of_ours_is_passed_over(tmp_path: Path) -> None:
    log = TrafficFile(tmp_path, NAME)
    await log.fresh()
    other = ["Server candidate/p1 is DOWN", '{"ts":1}', _line(7, "-").strip(), "", "\x00\xff"]
    _append(tmp_path, "\n".join(other) + "\n" + _line(8))
    assert _numbers(await log.fresh()) == [8]


async def test_a_client_that_left_and_a_missing_customer(tmp_path: Path) -> None:
    """As HAProxy writes them."""
    log = TrafficFile(tmp_path, NAME)
    await log.fresh()
    line = '{"ts":1795893722662303e-6,"side":"candidate","status":-1,"duration":2223e-6,"customer_a":"-"}\n'
    _append(tmp_path, line)
    assert await log.fresh() == [Served(1795893722.662303, Side.CANDIDATE, "", 499, 0.002223)]


async def test_rotation_loses_nothing_until_files_are_dropped(tmp_path: Path) -> None:
    log, tally = TrafficFile(tmp_path, NAME), Tally(tmp_path, NAME)
    await log.fresh()
    _append(tmp_path, _line(1) + _line(2))
    assert _numbers(await log.fresh()) == [1, 2]
    assert tally.counted() == {Side.BASELINE: 2, Side.CANDIDATE: 0}
    for number in (3, 4):
        _append(tmp_path, _line(number, "candidate"))
        (tmp_path / NAME).rename(tmp_path / f"traffic-{number}.log")
    _append(tmp_path, _line(5))
    assert _numbers(await log.fresh()) == [3, 4, 5]
    assert tally.counted() == {Side.BASELINE: 3, Side.CANDIDATE: 2}
    assert Tally(tmp_path, NAME).counted() == {Side.BASELINE: 3, Side.CANDIDATE: 2}


async def test_a_file_that_took_a_dropped_ones_number_is_read_from_its_start(tmp_path: Path) -> None:
    log = TrafficFile(tmp_path, NAME)
    await log.fresh()
    _append(tmp_path, _line(1) + _line(2))
    assert _numbers(await log.fresh()) == [1, 2]
    # The same inode with other content, as after many rotations while nobody read.
    (tmp_path / NAME).write_text(_line(10) + _line(11) + _line(12))
    assert _numbers(await log.fresh()) == [10, 11, 12]


def test_the_keeper_keeps_whole_lines_within_its_bounds(tmp_path: Path) -> None:
    kept = subprocess.Popen(
        [sys.executable, "-I", "-S", str(KEEPER), NAME, "10000", "2"], cwd=tmp_path, stdin=subprocess.PIPE
    )
    assert kept.stdin is not None
    for number in range(2_000):
        kept.stdin.write(_line(number).encode())
        kept.stdin.flush()
    kept.stdin.close()
    assert kept.wait(20) == 0
    # The names of older ones say when they were begun; the one that is written comes last.
    files = [*sorted(tmp_path.glob("traffic-*.log")), tmp_path / NAME]
    assert len(files) == 3
    # A read of the pipe may bring as much as it holds beyond the bound.
    assert all(path.stat().st_size <= 10_000 + 65_536 for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    lines = "".join(path.read_text() for path in files).splitlines()
    numbers = [int(json.loads(line)["ts"]) for line in lines]
    assert numbers == list(range(numbers[0], 2_000))
