"""The decision log: whatever is done to its bytes is found and named; what a kill leaves is set aside."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finflow.kernel.errors import FinFlowError
from finflow.rollout import events as e
from finflow.rollout.log import DecisionLog, files, read, verify

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None
)


def started(number: int) -> e.Started:
    return e.Started(f"rol_{number}", "shop", "1.0", f"1.{number}", "d", {})


def written(folder: Path, rollouts: int = 2, lines: int = 4) -> list[Path]:
    log = DecisionLog(folder)
    log.open()
    for number in range(rollouts):
        log.begin("ann@desk", started(number))
        for line in range(lines):
            log.append("controller", e.Noted("note", f"line {line}"))
    log.close()
    return files(folder)


def test_every_line_holds_the_hash_of_the_one_before_also_over_files(tmp_path: Path) -> None:
    lines = b"".join(path.read_bytes() for path in written(tmp_path)).splitlines()
    prev = "0" * 64
    for seq, line in enumerate(lines, 1):
        told = json.loads(line)
        # The hash covers the bytes behind it: reckoned here without the code under test.
        body = line.split(b'",', 1)[1]
        assert told["hash"] == hashlib.sha256(body).hexdigest()
        assert (told["seq"], told["prev"]) == (seq, prev)
        prev = told["hash"]
    found = verify(tmp_path)
    assert (found.lines, found.head, found.faults, found.torn) == (10, prev, [], False)


def test_files_are_private(tmp_path: Path) -> None:
    [path, _] = written(tmp_path / "log")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


def changed(path: Path, change: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "edit":
        lines[2] = lines[2].replace(b"line 1", b"line 9")
    elif change == "remove":
        del lines[2]
    elif change == "swap":
        lines[2], lines[3] = lines[3], lines[2]
    elif change == "repeat":
        lines.insert(2, lines[1])
    elif change == "rewrite":
        # Somebody who knows how hashes are made changes a line and its hash, but not what follows.
        body = lines[2].rstrip(b"\n").split(b'",', 1)[1].replace(b"line 1", b"line 9")
        lines[2] = b'{"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'",' + body + b"\n"
    elif change == "cut":
        lines = lines[:-2]
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ("edit", "000001.jsonl:3", "the line was changed"),
        ("remove", "000001.jsonl:3", "removed, repeated or moved"),
        ("swap", "000001.jsonl:3", "removed, repeated or moved"),
        ("repeat", "000001.jsonl:3", "removed, repeated or moved"),
        ("rewrite", "000001.jsonl:4", "one of the two was replaced"),
        ("cut", "000002.jsonl:1", "removed, repeated or moved"),
    ],
)
def test_a_change_is_named_by_its_line(tmp_path: Path, change: str, where: str, words: str) -> None:
    changed(written(tmp_path)[0], change)
    first = verify(tmp_path).faults[0]
    assert first.startswith(where)
    assert words in first


def test_lines_cut_off_at_the_end_are_known_by_the_head(tmp_path: Path) -> None:
    changed(written(tmp_path)[1], "cut")
    assert verify(tmp_path).faults == [
        "head: line 10 was written, and the log ends with line 8: lines were cut off"
    ]


def test_nothing_is_written_to_a_log_that_was_changed(tmp_path: Path) -> None:
    changed(written(tmp_path)[1], "edit")
    with pytest.raises(FinFlowError) as caught:
        DecisionLog(tmp_path).open()
    assert caught.value.kind.code == "log_broken"
    assert "000002.jsonl:3" in caught.value.detail


@SAME_FOLDER
@given(cut=st.integers(1, 100), garbage=st.binary(max_size=40).filter(lambda data: b"\n" not in data))
def test_half_a_line_is_set_aside_and_told_of(tmp_path: Path, cut: int, garbage: bytes) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = written(folder, rollouts=1)[-1]
    whole = path.read_bytes()
    torn = whole.splitlines()[-1][:cut] + garbage
    with path.open("ab") as file:
        file.write(torn)
    assert verify(folder).torn
    assert len(read(path)) == 5
    log = DecisionLog(folder)
    log.open()
    log.append("controller", e.Noted("note", "after"))
    log.close()
    told = [entry.told for entry in read(path)][-2:]
    assert told[0] == e.Recovered(len(torn), f"{path.stem}.torn-6")
    assert (folder / f"{path.stem}.torn-6").read_bytes() == torn
    assert path.read_bytes().startswith(whole)
    assert verify(folder).faults == []


def test_a_rollout_whose_first_line_was_never_finished_never_began(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "000003.jsonl").write_bytes(b'{"hash":"')
    log = DecisionLog(tmp_path)
    log.open()
    assert [entry.seq for entry in log.entries] == [6, 7, 8, 9, 10]
    log.begin("ann@desk", started(3))
    log.close()
    assert verify(tmp_path).faults == []
    assert [path.name for path in files(tmp_path)] == ["000001.jsonl", "000002.jsonl", "000003.jsonl"]


def test_a_writer_finds_out_that_somebody_else_has_written(tmp_path: Path) -> None:
    written(tmp_path)
    old, new = DecisionLog(tmp_path), DecisionLog(tmp_path)
    old.open()
    new.open()
    new.append("controller", e.TookOver(2, 1, "desk"))
    with pytest.raises(FinFlowError) as caught:
        old.append("controller", e.Noted("note", "too late"))
    assert caught.value.kind.code == "rollout_fenced"
    assert verify(tmp_path).faults == []


def test_a_line_that_does_not_reach_the_disk_is_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    log = DecisionLog(tmp_path)
    log.open()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FinFlowError) as caught:
        log.append("controller", e.Noted("note", "lost"))
    monkeypatch.undo()
    assert caught.value.kind.code == "log_unwritable"
    log.append("controller", e.Noted("note", "kept"))
    assert verify(tmp_path).faults == []
