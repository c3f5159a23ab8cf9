"""Whose work a line was written in, how it looks on a terminal, its level while everything runs."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.telemetry import levels, logs, tracing
from finflow.telemetry.logs import JsonLines, PrettyLines, Thrifty
from finflow.telemetry.tracing import Tracer


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    return logging.Logger("finflow.x").makeRecord(
        "finflow.x", logging.WARNING, "file", 1, message, arguments, None, extra=extra
    )


def test_a_line_within_a_request_names_its_trace_its_request_and_its_tenant() -> None:
    root = Tracer().begin("request", "server")
    root.trace.scope = {"state": {"request_id": "req-7", "tenant_id": "ten_1"}}
    token = tracing.enter(root)
    line = json.loads(JsonLines("2026.11").format(record("hello %d", 5, worker=3)))
    tracing.leave(token)
    assert list(line) == [
        "time", "level", "logger", "message", "pid", "release", "trace_id", "span_id", "request_id", "tenant",
        "worker",
    ]  # fmt: skip
    assert line["trace_id"] == f"{root.trace.trace_id:032x}"
    assert line["span_id"] == f"{root.span_id:016x}"
    assert (line["request_id"], line["tenant"], line["release"]) == ("req-7", "ten_1", "2026.11")
    assert (line["level"], line["message"], line["worker"]) == ("warning", "hello 5", 3)
    outside = json.loads(JsonLines().format(record("x")))
    assert not {"trace_id", "request_id", "tenant"} & set(outside)


def test_a_line_with_too_many_arguments_is_written_all_the_same() -> None:
    assert json.loads(JsonLines().format(record("one %s", 1, 2)))["message"] == "one %s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_people_see_words_and_programs_json(
    root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, pipe = Terminal(), io.StringIO()
    logs.configure("info", terminal)
    logging.getLogger("finflow.x").info("worker %s", "started", extra={"number": 3, "why": "two words"})
    logs.configure("info", pipe)
    logging.getLogger("finflow.x").info("worker started")
    assert terminal.getvalue()[12:] == ' info    finflow.x: worker started number=3 why="two words"\n'
    assert json.loads(pipe.getvalue())["message"] == "worker started"


def test_a_terminal_is_not_written_on_by_what_is_logged() -> None:
    shown = PrettyLines(colours=False).format(record("a\033[2Jb\nc", path="\033]0;title\007"))
    assert shown.isprintable()
    assert "\\x1b[2Jb\\x0ac" in shown


def test_a_flood_of_one_kind_leaves_a_few_lines_and_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(logs, "monotonic", lambda: now)
    thrifty = Thrifty(per_s=3, kinds=2)
    assert [thrifty.allow("a")[0] for _ in range(10)] == [True] * 3 + [False] * 7
    assert thrifty.allow("b") == (True, 0)
    now += 1.5
    assert thrifty.allow("a") == (True, 7)
    assert thrifty.allow("a") == (True, 0)


# --- the level, while everything runs -------------------------------------------------------------------


def test_a_level_is_asked_for_found_and_withdrawn(tmp_path: Path) -> None:
    assert levels.wanted(tmp_path) is None
    levels.ask(tmp_path, "debug")
    assert levels.wanted(tmp_path) == "debug"
    assert (tmp_path / levels.FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [levels.FILE_NAME]
    levels.withdraw(tmp_path)
    levels.withdraw(tmp_path)
    assert levels.wanted(tmp_path) is None


def test_a_file_that_others_could_write_or_that_says_nonsense_counts_for_nothing(tmp_path: Path) -> None:
    place = tmp_path / levels.FILE_NAME
    for text in ("", "loud", "DEBUG!", "debug\nerror", "x" * 10_000):
        place.write_text(text)
        assert levels.wanted(tmp_path) is None
    levels.ask(tmp_path, "debug")
    place.chmod(0o666)
    assert levels.wanted(tmp_path) is None
    place.unlink()
    (tmp_path / "elsewhere").write_text("debug")
    place.symlink_to(tmp_path / "elsewhere")
    assert levels.wanted(tmp_path) is None
    place.unlink()
    os.mkfifo(place)
    assert levels.wanted(tmp_path) is None


def test_a_process_follows_the_file(tmp_path: Path, root_logger: logging.Logger) -> None:
    stream, pause = io.StringIO(), Event()
    logs.configure("info", stream)

    def until(level: str) -> None:
        for _ in range(2_000):
            if logs.level() == level:
                return
            pause.wait(0.01)
        raise AssertionError(f"the level stayed {logs.level()}")

    done = levels.watch(tmp_path, "info", every_s=0.01)
    try:
        levels.ask(tmp_path, "debug")
        until("debug")
        logging.getLogger("finflow.x").debug("seen now")
        levels.ask(tmp_path, "error")
        until("error")
        levels.withdraw(tmp_path)
        until("info")
    finally:
        done.set()
    said = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert said[:3] == ["log level is debug now", "seen now", "log level is error now"]


# --- what cannot be written -----------------------------------------------------------------------------

PRIVATE = "john.doe@example.com"


class Unspeakable:
    def __str__(self) -> str:
        raise LookupError(PRIVATE)

    __repr__ = __str__


class Unreadable(dict[str, str]):
    def items(self) -> NoReturn:
        raise LookupError(PRIVATE)


@pytest.mark.parametrize(
    ("made", "kept", "failed"),
    [
        (record("for %s", Unspeakable()), {"message": "for %s"}, {"arguments": "LookupError"}),
        (record("%d of 4111111111111111", PRIVATE), {"message": "%d of ***"}, {"arguments": "TypeError"}),
        (record("%(a)s", {"b": PRIVATE}), {"message": "%(a)s"}, {"arguments": "KeyError"}),
        (record(Unspeakable()), {"message": ""}, {"arguments": "LookupError"}),  # type: ignore[arg-type]
        (record("x", who=Unspeakable(), n=5), {"message": "x", "n": 5}, {"who": "LookupError"}),
        (record("x", who=[{"a": Unspeakable()}]), {"message": "x"}, {"who": "LookupError"}),
        (record("x", who=Unreadable(a="b")), {"message": "x"}, {"who": "LookupError"}),
        (record("x", who={Unspeakable(): 1}), {"message": "x"}, {"who": "LookupError"}),
        (record("x", n=10**5000), {"message": "x"}, {"n": "ValueError"}),
    ],
)  # fmt: skip
def test_what_cannot_be_formatted_is_named_and_the_rest_is_written(
    made: logging.LogRecord, kept: dict[str, Any], failed: dict[str, str]
) -> None:
    text = JsonLines().format(made)
    line = json.loads(text)
    assert line | kept | {"not_formatted": failed} == line
    assert PRIVATE not in text
    assert "not_formatted" in PrettyLines(colours=False).format(made)


def test_half_a_letter_costs_no_line() -> None:
    line = json.loads(
        JsonLines().format(record("a\ud800b %s", "\udc80", **{"k\ud800": ["\udfff", {"\ud801": 1}]}))
    )
    assert line["message"] == r"a\ud800b \udc80"
    assert line[r"k\ud800"] == [r"\udfff", {r"\ud801": 1}]
    shown = PrettyLines(colours=False).format(record("a\ud800", k=["\ud800"]))
    assert shown.encode()


def test_a_line_that_fails_as_a_whole_says_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> NoReturn:
        raise RuntimeError(PRIVATE)

    monkeypatch.setattr(logs, "_context", broken)
    text = JsonLines("r").format(record(PRIVATE, PRIVATE, a=PRIVATE))
    line = json.loads(text)
    assert (line["message"], line["file"], line["level"]) == ("a log line was lost", "file:1", "warning")
    assert line["not_formatted"] == "RuntimeError"
    assert PRIVATE not in text


def test_a_stream_that_fails_shows_nobody_the_line(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> NoReturn:
            raise OSError(28, PRIVATE)

    logs.configure("info", Full())
    logging.getLogger("finflow.x").error(PRIVATE, PRIVATE, extra={"a": PRIVATE}, exc_info=ValueError(PRIVATE))
    said = json.loads(capsys.readouterr().err)
    assert (said["message"], said["logger"], said["not_formatted"]) == (
        "a log line was lost",
        "finflow.x",
        "OSError",
    )
    assert PRIVATE not in json.dumps(said)


def test_a_stream_of_another_encoding_takes_every_letter(root_logger: logging.Logger) -> None:
    written = io.BytesIO()
    logs.configure("info", io.TextIOWrapper(written, "ascii"))
    logging.getLogger("finflow.x").info("5 € for \ud800")
    assert json.loads(written.getvalue())["message"] == "5 € for \\ud800"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
    | st.builds(Unspeakable) | st.decimals() | st.datetimes(),
    lambda each: st.lists(each) | st.dictionaries(st.text(st.characters()), each) | st.tuples(each, each),
    max_leaves=8,
)  # fmt: skip


@given(message=anything, arguments=st.lists(anything, max_size=3), extra=anything)
def test_no_record_whatsoever_costs_its_line(message: Any, arguments: list[Any], extra: Any) -> None:
    made = record(message, *arguments, extra=extra)
    line = json.loads(JsonLines().format(made))
    assert list(line)[:6] == ["time", "level", "logger", "message", "pid", "release"]
    assert PrettyLines().format(made).encode()
