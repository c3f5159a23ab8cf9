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


@pytest.mark.parametrize(
    "text",
    [
        "Bearer {}",
        '{{"path": "/v1/accounts/{}"}}',
        "client_assertion={}&scope=x",
        "https://bank.example/?token={}",
    ],
)
def test_signed_tokens_are_masked(text: str) -> None:
    # The example of RFC 7519, section 3.1.
    example = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )
    assert redact(text.format(example)) == text.format("***")
