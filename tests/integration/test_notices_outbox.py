"""The outbox: nobody waits for a receiver, nothing is told twice without need, and a kill loses nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout.notices.journal import KEPT_KEYS, Journal, Settled, Told
from finflow.rollout.notices.model import key_of
from finflow.rollout.notices.outbox import Channel, Outbox
from finflow.rollout.ports import Notice


def notice(number: int, event: str = "promoted") -> Notice:
    return Notice("rol_1", "payments", event, f"step {number}", f"2026-03-01T10:00:00.{number:06}Z")


class Receiver:
    """Keeps what it gets; `gate` holds it back, `fault` is raised."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def notify(self, notice: Notice) -> None:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.got.append(notice.text)


async def test_each_channel_gets_its_events_in_order_and_once() -> None:
    everything, aborts = Receiver(), Receiver()
    outbox = Outbox([Channel("all", everything), Channel("aborts", aborts, ("aborted",))])
    await outbox.open()
    for each in [notice(1), notice(2, "aborted"), notice(1), notice(3)]:
        await outbox.notify(each)
    await outbox.close(5)
    assert everything.got == ["step 1", "step 2", "step 3"]
    assert aborts.got == ["step 2"]
    assert outbox.counts == {("all", "delivered"): 3, ("aborts", "delivered"): 1}


async def test_a_receiver_that_hangs_holds_up_nobody() -> None:
    hanging, other = Receiver(), Receiver()
    hanging.gate.clear()
    outbox = Outbox([Channel("hanging", hanging), Channel("other", other)], capacity=2)
    await outbox.open()
    for number in range(5):
        await outbox.notify(notice(number))
        await asyncio.sleep(0.01)
    assert other.got == [f"step {number}" for number in range(5)]
    # One is being sent and two are queued.
    assert outbox.counts["hanging", "dropped"] == 2
    await outbox.close(0.05)
    assert hanging.got == []


async def test_every_failure_is_counted_and_the_next_notice_is_sent() -> None:
    receiver = Receiver()
    outbox = Outbox([Channel("one", receiver)])
    await outbox.open()
    for number, fault in enumerate([FinFlowError("notice_undelivered"), ValueError("a bug"), None]):
        receiver.fault = fault
        await outbox.notify(notice(number))
        await asyncio.sleep(0.01)
    await outbox.close(5)
    assert receiver.got == ["step 2"]
    assert outbox.counts == {("one", "undelivered"): 2, ("one", "delivered"): 1}


async def test_what_was_not_sent_is_sent_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "notices"
    hanging, other = Receiver(), Receiver()
    hanging.gate.clear()
    first = Outbox([Channel("hanging", hanging), Channel("other", other)], path)
    await first.open()
    await first.notify(notice(1))
    await first.notify(notice(2))
    await asyncio.sleep(0.05)
    await first.close(0.05)
    again, still, gone = Receiver(), Receiver(), Receiver()
    # What the end of a write looks like that a kill has cut off.
    with path.open("ab") as file:
        file.write(b'{"type":"settled","key":"abc","chan')
    second = Outbox([Channel("hanging", again), Channel("other", still), Channel("new", gone)], path)
    await second.open()
    await second.notify(notice(2))
    await second.notify(notice(3))
    await second.close(5)
    assert again.got == ["step 1", "step 2", "step 3"]
    assert still.got == gone.got == ["step 3"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    outbox = Outbox([Channel("one", Receiver())], tmp_path / "none" / "notices")
    with pytest.raises(FinFlowError, match="data_unusable"):
        await outbox.open()


async def test_a_full_disk_stops_no_notice(tmp_path: Path) -> None:
    receiver = Receiver()
    outbox = Outbox([Channel("one", receiver)], tmp_path / "notices")
    await outbox.open()
    assert outbox._journal is not None
    outbox._journal.close()
    outbox._journal._descriptor = os.open("/dev/full", os.O_WRONLY)
    await outbox.notify(notice(1))
    await outbox.close(5)
    assert receiver.got == ["step 1"]


def test_the_journal_stays_small(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "notices")
    journal.open()
    for number in range(20):
        told = Told(f"key {number}", ("one",), notice(number))
        journal.append(told)
        journal.append(Settled(told.key, "one", "delivered"))
    journal.close()
    size = (tmp_path / "notices").stat().st_size
    fresh = Journal(tmp_path / "notices")
    fresh.open()
    assert (tmp_path / "notices").stat().st_size < size / 4
    assert list(fresh.known) == [f"key {number}" for number in range(20)]
    for number in range(KEPT_KEYS + 50):
        fresh._take(Told(f"more {number}", (), notice(number)))
        fresh.owed.clear()
    assert len(fresh.known) <= KEPT_KEYS + 1
    fresh.close()


_TELLER = """
import asyncio, sys
from pathlib import Path
from finflow.rollout.checks_spec import FileSpec
from finflow.rollout.notices.local import File
from finflow.rollout.notices.outbox import Channel, Outbox
from finflow.rollout.ports import Notice

async def main(folder):
    outbox = Outbox([Channel("file", File(FileSpec("told.jsonl"), folder))], folder / "state")
    await outbox.open()
    for number in range(10_000):
        await outbox.notify(Notice("rol_1", "payments", "step", str(number), str(number)))
        print(number, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_kill_at_any_moment_loses_no_notice(tmp_path: Path) -> None:
    for kill_after in (1, 7, 40):
        folder = tmp_path / str(kill_after)
        folder.mkdir()
        teller = subprocess.Popen(  # noqa: ASYNC220 - the test has nothing else to do meanwhile
            [sys.executable, "-c", _TELLER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert teller.stdout is not None
        told = [int(teller.stdout.readline()) for _ in range(kill_after)]
        teller.send_signal(signal.SIGKILL)
        told += [int(line) for line in teller.stdout if line.endswith("\n")]
        teller.wait()
        teller.stdout.close()
        got = Receiver()
        outbox = Outbox([Channel("file", got)], folder / "state")
        await outbox.open()
        await outbox.close(10)
        lines = (folder / "told.jsonl").read_bytes().split(b"\n") if (folder / "told.jsonl").exists() else []
        delivered = {json.loads(line)["text"] for line in lines[:-1]} | set(got.got)
        assert {str(number) for number in told} <= delivered
        keys = [msgspec.json.decode(line)["key"] for line in lines[:-1]]
        assert len(keys) == len(set(keys))


def test_one_event_has_one_key() -> None:
    assert key_of(notice(1)) == key_of(msgspec.structs.replace(notice(1), text="in other words"))
