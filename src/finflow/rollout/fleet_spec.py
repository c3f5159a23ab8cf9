"""A rollout's SPEC about a fleet: a command to keep running, or processes that somebody else runs."""

import re
from typing import Annotated, Final

import msgspec

from finflow.telemetry.redaction import secret

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Words = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1_000)]


class CommandFleet(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="command"
):
    """So many processes of one command, each on a free loopback port of its own.

    The port stands in the variable `port_variable` and wherever `{port}` stands in the command; with
    `release`, `{python}`, `{bin}` and `{release}` stand for that environment. A process is ready when
    `ready_path` answers `ready_status`, or, without a path, when its port takes connections. Secrets come by
    `environment_from` (names that are passed on from whoever starts the fleet) and `environment_file`
    (NAME=VALUE lines, readable by its owner alone), never by the command.
    """

    command: Words
    processes: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    release: str | None = None
    folder: str | None = None
    working_folder: str | None = None
    port_variable: str = "PORT"
    ready_path: str | None = None
    ready_status: Annotated[int, msgspec.Meta(ge=100, le=599)] = 200
    environment: dict[str, str] = {}
    environment_from: tuple[str, ...] = ()
    environment_file: str | None = None
    drain_s: Seconds = 30.0
    stop_timeout_s: Seconds = 10.0
    hung_after_s: Seconds = 60.0
    memory_limit_mb: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        for name in (self.port_variable, *self.environment, *self.environment_from):
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
        if any("\0" in text for text in (*self.command, *self.environment.values())):
            raise ValueError("a command and its environment hold no NUL")
        named = [*(("", word) for word in self.command), *self.environment.items()]
        if any(secret(name, text) for name, text in named):
            raise ValueError(
                "it holds a secret: name its variable in environment_from, or use environment_file"
            )
        if self.ready_path is not None and not re.fullmatch(r"/[!-~]*", self.ready_path):
            raise ValueError("ready_path begins with / and holds printable characters without spaces")


class EndpointsFleet(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="endpoints"
):
    """Processes that somebody else runs, such as the fleet that is to be replaced.

    They are neither started nor scaled; `stop_command`, where there is one, ends them for good, with the
    variables that `environment_from` names.
    """

    endpoints: Words
    ready_path: str | None = None
    ready_status: Annotated[int, msgspec.Meta(ge=100, le=599)] = 200
    stop_command: Words | None = None
    stop_timeout_s: Seconds = 60.0
    environment_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.endpoints:
            split_endpoint(text)
        if any(secret("", text) for text in self.stop_command or ()):
            raise ValueError("stop_command holds a secret: name its variable in environment_from")


FleetSpec = CommandFleet | EndpointsFleet


def split_endpoint(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [HOST]:PORT. Raises ValueError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[A-Za-z0-9.\-:]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(f"{text!r} does not look like HOST:PORT")
    if not 1 <= int(port) <= 65_535:
        raise ValueError(f"{text!r} has a port that there is not")
    return host, int(port)
