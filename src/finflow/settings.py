"""Every setting: its name, its meaning, its default, and how its text is read. app reads them."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from finflow.limits.model import MAX_BURST, MAX_CONCURRENCY, MAX_PER_S

_LEVELS: Final = ("debug", "info", "warning", "error")
_INGRESSES: Final = ("auto", "caddy", "haproxy", "none")
_LOG_PLACES: Final = ("files", "stdout")


class Setting(msgspec.Struct, frozen=True):
    """One setting: its name, what it means, its default in words, and how its text becomes its value.

    The flag is `--name`, the environment variable FINFLOW_NAME. `parse` raises ValueError with a sentence.
    """

    name: str
    meaning: str
    default: Callable[[], Any]
    parse: Callable[[str], Any]

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"FINFLOW_{self.name.upper()}"


def _default_data() -> Path:
    import platformdirs  # here, because only a run without --data needs it

    return Path(platformdirs.user_data_dir("finflow"))


def _default_target() -> str:
    return "finflow.api.asgi:application"


def _default_release() -> str:
    from finflow import __version__

    return __version__


def _nothing() -> None:
    return None


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("it is not a path")
    return Path(text).expanduser().absolute()


def _database_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("it does not begin with postgresql://")
    return text


def _http_url(text: str) -> str:
    if not text.startswith(("https://", "http://")) or not text.isprintable() or " " in text:
        raise ValueError("it does not begin with https:// or http://")
    return text.rstrip("/")


def _between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"it is not a whole number from {least} to {most}")
        return int(text)

    return parse


def _level(text: str) -> str:
    if text.lower() not in _LEVELS:
        raise ValueError(f"it is none of {', '.join(_LEVELS)}")
    return text.lower()


def _log_place(text: str) -> str:
    if text.lower() not in _LOG_PLACES:
        raise ValueError(f"it is none of {', '.join(_LOG_PLACES)}")
    return text.lower()


def _ingress(text: str) -> str:
    if text.lower() not in _INGRESSES:
        raise ValueError(f"it is none of {', '.join(_INGRESSES)}")
    return text.lower()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        raise ValueError("it does not look like HOST:PORT")
    return host.strip("[]"), _port(port)


def _target(text: str) -> str:
    if not all(part.isidentifier() for part in text.replace(":", ".", 1).split(".")) or ":" not in text:
        raise ValueError("it does not look like package.module:name")
    return text


def _release(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,63}", text):
        raise ValueError("it is not a name of up to 64 letters, digits, dots, dashes, underscores and pluses")
    return text


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError("it is neither yes nor no")
    return text.lower() == "yes"


def _share(text: str) -> float:
    if not re.fullmatch(r"0|1|[01]?\.[0-9]{1,9}|[01]\.?", text) or float(text) > 1:
        raise ValueError("it is not a number from 0 to 1")
    return float(text)


_port = _between(1, 65535)
_count = _between(1, 256)
_millis = _between(1, 3_600_000)

SETTINGS: Final = (
    Setting("data", "The folder of the embedded database, its logs and its state.", _default_data, _path),
    Setting(
        "database_url", "A PostgreSQL >= 15 to use instead of the embedded one.", _nothing, _database_url
    ),
    Setting("port", "The API's port; by default 8400, or a free one if that is taken.", _nothing, _port),
    Setting("workers", "How many API worker processes run.", lambda: os.cpu_count() or 1, _count),
    Setting("log_level", "The least severe log lines that are written.", lambda: "info", _level),
    Setting(
        "log_to",
        "Where `finflow up` and its workers log to: files in DATA/logs, or stdout, for containers.",
        lambda: "files",
        _log_place,
    ),
    Setting("target", "The ASGI application that the workers serve.", _default_target, _target),
    Setting("keys", "The folder of the keys that sign access tokens [DATA/keys].", _nothing, _path),
    Setting(
        "issuer",
        "The URL under which clients reach the API, which its access tokens are from and for [its own].",
        _nothing,
        _http_url,
    ),
    Setting("issuers", "A TOML file of other issuers whose access tokens are trusted.", _nothing, _path),
    Setting(
        "tenant_requests_per_s",
        "How many requests a second a tenant may send to this host, unless it has limits of its own.",
        lambda: 300,
        _between(1, MAX_PER_S),
    ),
    Setting(
        "tenant_burst",
        "How many requests a tenant may send at once after a pause.",
        lambda: 1_000,
        _between(1, MAX_BURST),
    ),
    Setting(
        "tenant_concurrency",
        "How many requests of a tenant one worker works at.",
        lambda: 256,
        _between(1, MAX_CONCURRENCY),
    ),
    Setting(
        "unverified_per_s",
        "How many requests for tokens, and tokens that fail their check, are looked at a second per address.",
        lambda: 50,
        _between(1, MAX_PER_S),
    ),
    Setting(
        "limits_file",
        "The file in memory that the workers of a host keep their limits in; `finflow up` makes its own.",
        _nothing,
        _path,
    ),
    Setting(
        "rails_folder",
        "Where each file rail has a folder, named like its participant; by default there is no rail.",
        _nothing,
        _path,
    ),
    Setting(
        "ingress",
        "What `finflow up` serves through: caddy, haproxy or none; auto is Caddy where it is installed.",
        lambda: "auto",
        _ingress,
    ),
    Setting(
        "ingress_proof",
        "The file that holds what the ingress proves itself by to the workers; `finflow up` makes its own.",
        _nothing,
        _path,
    ),
    Setting(
        "metrics_folder",
        "Where the workers' counters lie while they run; by default in memory.",
        _nothing,
        _path,
    ),
    Setting(
        "metrics_address",
        "HOST:PORT at which `finflow up` answers /metrics too; by default none.",
        _nothing,
        _address,
    ),
    Setting(
        "keep_commands",
        "Whether the journal keeps what was asked beside what was booked, for a shadow: yes or no.",
        lambda: False,
        _yes_or_no,
    ),
    Setting(
        "release",
        "Which release runs here: on metrics, traces and logs, and with each row of the journal.",
        _default_release,
        _release,
    ),
    Setting("trace_ratio", "The share of requests whose traces are kept, from 0 to 1.", lambda: 0.01, _share),
    Setting(
        "trace_slow_ms", "Requests that take so long are traced whatever the share.", lambda: 200, _millis
    ),
    Setting(
        "access_log_ratio", "The share of requests that get a log line, from 0 to 1.", lambda: 0.0, _share
    ),
)
