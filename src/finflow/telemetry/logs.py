"""Structured logs: one JSON object a line, on standard output, through the standard library's logging.

A line has `time` (RFC 3339 UTC, microseconds), `level`, `logger`, `message`, `pid` and `release`; within a
request or a background step also `trace_id`, `span_id`, `request_id` and `tenant`; then whatever was given
as `extra=`, and `error` with the traceback where there is one. Secrets and personal data are masked in all of
it, see `redaction.scrub`. What cannot be formatted is named in `not_formatted`, with the exception that it
raised; the rest is written all the same. On a terminal the same fields are laid out for people.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, TextIO

import msgspec

from finflow import __version__
from finflow.telemetry import tracing
from finflow.telemetry.redaction import scrub, scrub_field

LEVELS: Final = ("debug", "info", "warning", "error")
# Whatever a plain LogRecord already has is not an extra.
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FIXED: Final = ("time", "level", "logger", "message", "pid", "release")
_COLOURS: Final = {"warning": "\033[33m", "error": "\033[31m", "critical": "\033[31m", "debug": "\033[2m"}
_PLAIN_AGAIN: Final = "\033[0m"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, release: str = __version__) -> None:
        super().__init__()
        self._release = release

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the record says, masked, in the order in which it is written."""
        failed: dict[str, str] = {}
        line = self._head(record, _message(record, failed))
        line |= _context()
        for name, value in vars(record).items():
            if name not in _PLAIN:
                _put(line, failed, name, scrub_field, name, value)
        if record.exc_info:
            _put(line, failed, "error", self._traceback, record.exc_info)
        if failed:
            line["not_formatted"] = failed
        return line

    def format(self, record: logging.LogRecord) -> str:
        try:
            return self.laid_out(self.fields(record))
        except Exception as error:
            return self.laid_out(self.lost(record, error))

    def lost(self, record: logging.LogRecord, error: BaseException | None) -> dict[str, Any]:
        """What is written instead of a line that could not be: where it came from, and why it could not."""
        line = self._head(record, "a log line was lost")
        return line | {"file": f"{record.pathname}:{record.lineno}", "not_formatted": type(error).__name__}

    def laid_out(self, line: dict[str, Any]) -> str:
        """The fields as text."""
        return _json(line)

    def _traceback(self, raised: Any) -> str:
        return scrub(self.formatException(raised))

    def _head(self, record: logging.LogRecord, message: str) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        return {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "pid": os.getpid(),
            "release": self._release,
        }


class PrettyLines(JsonLines):
    """The same for people: time of day, level, message, then name=value; tracebacks below."""

    def __init__(self, release: str = __version__, colours: bool = True) -> None:
        super().__init__(release)
        self._colours = colours

    def laid_out(self, line: dict[str, Any]) -> str:
        error = line.pop("error", None)
        level = line["level"]
        colour, plain = (_COLOURS.get(level, ""), _PLAIN_AGAIN) if self._colours else ("", "")
        rest = " ".join(f"{name}={_word(value)}" for name, value in line.items() if name not in _FIXED)
        # No control character of a message may write on the reader's terminal.
        said = f"{line['logger']}: {_printable(line['message'])} {_printable(rest)}".rstrip()
        head = f"{line['time'][11:23]} {colour}{level:<7}{plain} {said}"
        return head if error is None else "\n".join([head, *map(_printable, error.splitlines())])


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines; of one that it cannot write it says so on standard error, and nothing of what it said."""

    def __init__(self, stream: TextIO, lines: JsonLines) -> None:
        super().__init__(stream)
        self.formatter: JsonLines = lines

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        with suppress(Exception):
            lost = self.formatter.lost(record, sys.exception())
            sys.stderr.write(self.formatter.laid_out(lost) + self.terminator)


def configure(level: str = "info", stream: TextIO | None = None, release: str = __version__) -> None:
    """Sends every logger's records of at least this level to the stream (standard output).

    As JSON lines, or laid out for people where the stream is a terminal.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        # Whatever the locale's encoding is, no letter of a message may cost the line.
        stream.reconfigure(errors="backslashreplace")
    colours = "NO_COLOR" not in os.environ
    lines = PrettyLines(release, colours) if stream.isatty() else JsonLines(release)
    root = logging.getLogger()
    root.handlers[:] = [Handler(stream, lines)]
    set_level(level)


def set_level(level: str) -> None:
    """From now on, log records of at least this level, one of LEVELS."""
    logging.getLogger().setLevel(level.upper())


def level() -> str:
    """The level in force."""
    return logging.getLevelName(logging.getLogger().level).lower()


class Thrifty:
    """Says whether a line about something may be written: so many a second for each kind, the rest counted.

    Where a database goes away, thousands of requests fail in the same second for the same reason.
    """

    def __init__(self, per_s: int = 20, kinds: int = 256) -> None:
        self._per_s = per_s
        self._kinds = kinds
        self._seen: dict[str, tuple[float, int]] = {}

    def allow(self, kind: str) -> tuple[bool, int]:
        """Whether to write it, and how many of this kind were not since the last that was."""
        now = monotonic()
        since, count = self._seen.get(kind, (now, 0))
        if now - since >= 1.0:
            self._seen[kind] = (now, 1)
            return True, max(0, count - self._per_s)
        if kind not in self._seen and len(self._seen) >= self._kinds:
            self._seen.clear()
        self._seen[kind] = (since, count + 1)
        return count < self._per_s, 0


def _message(record: logging.LogRecord, failed: dict[str, str]) -> str:
    try:
        return scrub(record.getMessage())
    except Exception as error:
        # A line with a wrong number of arguments still says where to look.
        failed["arguments"] = type(error).__name__
        return scrub(record.msg) if isinstance(record.msg, str) else ""


def _put(line: dict[str, Any], failed: dict[str, str], name: str, made: Callable[..., Any], *of: Any) -> None:
    try:
        line[name] = made(*of)
    except Exception as error:
        failed[name] = type(error).__name__


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(value), enc_hook=str).decode()


def _encodable(value: object) -> object:
    """The same without halves of surrogate pairs, which UTF-8 has no form for."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(str(name)): _encodable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    return value


def _context() -> Iterator[tuple[str, str]]:
    """Whose work this line was written in."""
    span = tracing.current()
    if span is None:
        return
    trace = span.trace
    yield "trace_id", f"{trace.trace_id:032x}"
    yield "span_id", f"{span.span_id:016x}"
    if trace.request is not None:
        yield "request_id", trace.request
    if trace.whose is not None:
        yield "tenant", trace.whose


def _word(value: object) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if text and " " not in text else f'"{text}"'


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)
