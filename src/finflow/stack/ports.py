"""The port of the API: chosen, reserved, and watched."""

import asyncio
import random
import socket
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError

DEFAULT: Final = 8400
_LISTEN: Final = "0A"
_ESTABLISHED: Final = "01"
# Linux gives out 32768 and above by default.
_OUTSIDE: Final = (20_000, 32_000)
_ATTEMPTS: Final = 100
_PROBE_TIMEOUT_S: Final = 2.0
_STATUS_LINE_MAX: Final = 200


def reserve(host: str, port: int | None) -> socket.socket:
    """A bound socket that keeps the port for our workers: the given one, else the default, else a free one.

    Nobody else can bind the port while the socket is open, because it was bound alone; our workers can,
    because it is opened to SO_REUSEPORT afterwards. It never listens, so it takes no connection away.
    While it binds, SO_REUSEADDR lets it pass over the remains of connections that ended a minute ago.
    Raises port_taken if a given port is in use.
    """
    for candidate in (port,) if port is not None else (DEFAULT, 0):
        try:
            return _bind(host, candidate)
        except OSError as error:
            reason = f"{host}:{candidate}: {error.strerror}"
    raise FinFlowError("port_taken", reason)


def url_of(host: str, port: int) -> str:
    """The URL of what listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return bound


def listening(port: int) -> int:
    """How many sockets of this machine listen on the port: one for each worker that is up."""
    suffix = f":{port:04X}"
    lines = [line for table in ("tcp", "tcp6") for line in _table(table)]
    return sum(1 for line in lines if line[1].endswith(suffix) and line[3] == _LISTEN)


def connected(port: int) -> int:
    """How many connections to this port of this machine are open, idle ones too."""
    suffix = f":{port:04X}"
    lines = [line for table in ("tcp", "tcp6") for line in _table(table)]
    return sum(1 for line in lines if line[1].endswith(suffix) and line[3] == _ESTABLISHED)


def free(host: str) -> int:
    """A port for a program that binds it itself: below those that the kernel gives to outgoing connections.

    Nobody keeps it until then, so whoever starts the program must bear that another one is faster.
    """
    first, last = _OUTSIDE
    for candidate in random.sample(range(first, last), _ATTEMPTS):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return candidate
    raise FinFlowError("port_taken", f"{host}: none of {_ATTEMPTS} ports from {first} to {last} is free.")


def _table(name: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    except OSError:
        return []


async def takes_connections(host: str, port: int) -> bool:
    """Whether a connection to the port is accepted in time."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _PROBE_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_status(host: str, port: int, path: str) -> int | None:
    """The status that GET path answers, or None if nobody answers in time. Costs no HTTP library."""
    try:
        return await asyncio.wait_for(_http_status(host, port, path), _PROBE_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError):
        return None


async def _http_status(host: str, port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection(host, port, limit=_STATUS_LINE_MAX)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        status_line = await reader.readline()
        return int(status_line.split()[1]) if status_line else 0
    except IndexError as error:
        raise ValueError("not an HTTP answer") from error
    finally:
        writer.close()
