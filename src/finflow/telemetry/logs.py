"""Structured logs: one JSON object a line, on standard error, through the standard library's logging.

A line has `at` (RFC 3339 UTC, microseconds), `level`, `logger`, `message`, `pid`, whatever was given as
`extra=`, and `error` with the traceback where there is one. Passwords in URLs are masked in all of it.
"""

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from finflow.telemetry.redaction import redact

# Whatever a plain LogRecord already has is not an extra.
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, object] = {
            "at": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": os.getpid(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redact(msgspec.json.encode(line, enc_hook=str).decode())


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends every logger's records of at least this level to the stream (standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
