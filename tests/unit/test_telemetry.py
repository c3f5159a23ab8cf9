"""Logs are one JSON object a line, and no password reaches them."""

import io
import json
import logging

import pytest

from finflow.telemetry.logs import JsonLines
from finflow.telemetry.redaction import redact


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("a postgresql://me:s@c/r:e@t@host:5432/db b", "a postgresql://me:***@host:5432/db b"),
        ("postgresql://me@host/db?password=secret&x=1", "postgresql://me@host/db?password=***&x=1"),
        ("redis://:secret@host", "redis://:***@host"),
        ("http://127.0.0.1:8400/v1/accounts", "http://127.0.0.1:8400/v1/accounts"),
        ("postgresql://finflow@/finflow?host=/a/b", "postgresql://finflow@/finflow?host=/a/b"),
        ("http://127.0.0.1:8400 and me@example.com", "http://127.0.0.1:8400 and me@example.com"),
        (
            "two postgresql://a:b@h/x postgresql://c:d@h/y",
            "two postgresql://a:***@h/x postgresql://c:***@h/y",
        ),
    ],
)
def test_redact(text: str, safe: str) -> None:
    assert redact(text) == safe


def test_a_line_holds_what_was_said_and_nothing_secret() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("finflow.test")
    logger.addHandler(handler)
    logger.warning("connect to %s", "postgresql://me:secret@host/db", extra={"worker": 3})
    try:
        raise ValueError("line one\nline two")
    except ValueError:
        logger.exception("broken")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["message"] == "connect to postgresql://me:***@host/db"
    assert (first["level"], first["logger"], first["worker"]) == ("warning", "finflow.test", 3)
    assert first["time"].endswith("Z")
    assert second["error"].endswith("ValueError: line one\nline two")
