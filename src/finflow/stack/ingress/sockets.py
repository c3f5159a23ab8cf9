"""Talking to a router over the sockets in its folder, and the socket that it serves."""

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError

_BACKLOG: Final = 4096
# From asm-generic/socket.h and linux/bpf_common.h, which Python does not name.
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_BPF_RETURN: Final = 0x06
_ANSWER_MAX_BYTES: Final = 4 << 20


@asynccontextmanager
async def connected(
    folder: Path, name: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a socket in the folder, however long the folder's path is."""
    # A socket's address holds 107 bytes; by way of our descriptor of the folder, any path is short.
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/{name}")
    finally:
        os.close(handle)
    try:
        yield reader, writer
    finally:
        writer.close()


async def http(
    folder: Path, name: str, method: str, path: str, body: bytes = b"", timeout_s: float = 5.0
) -> tuple[int, str]:
    """One HTTP exchange over a socket in the folder: status and body. Raises ingress_unreachable."""
    head = (
        f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Cache-Control: must-revalidate\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(timeout_s), connected(folder, name) as (reader, writer):
            writer.write(head.encode() + body)
            answer = await _all(reader)
    except (OSError, TimeoutError) as error:
        raise FinFlowError(
            "ingress_unreachable", f"{folder / name}: {error or 'no answer in time'}"
        ) from error
    status_line, _, rest = answer.partition(b"\r\n")
    text = rest.partition(b"\r\n\r\n")[2].decode(errors="replace")
    words = status_line.split()
    if len(words) < 2 or not words[1].isdigit():
        raise FinFlowError("ingress_unreachable", f"{folder / name}: not an HTTP answer")
    return int(words[1]), text


async def command(folder: Path, name: str, text: str, timeout_s: float = 5.0) -> str:
    """One line to a socket that answers with text and closes. Raises ingress_unreachable."""
    try:
        async with asyncio.timeout(timeout_s), connected(folder, name) as (reader, writer):
            writer.write(text.encode() + b"\n")
            # HAProxy's master keeps the connection for more commands until it hears that there are none.
            writer.write_eof()
            return (await _all(reader)).decode(errors="replace")
    except (OSError, TimeoutError) as error:
        raise FinFlowError(
            "ingress_unreachable", f"{folder / name}: {error or 'no answer in time'}"
        ) from error


async def _all(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while piece := await reader.read(65_536):
        found += piece
        if len(found) > _ANSWER_MAX_BYTES:
            raise OSError("an answer without end")
    return bytes(found)


def listening(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets that listen on one port, for a router to inherit; connections come to the first until
    steer() says otherwise. Raises port_taken.
    """
    first = _socket(host)
    made = [first]
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Bound alone, so that a port that somebody else shares among its own processes counts as taken.
        first.bind((host, port))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.listen(_BACKLOG)
        _attach(first, 0)
        made += [_joined(host, first.getsockname()[1]) for _ in range(count - 1)]
    except OSError as error:
        for each in made:
            each.close()
        raise FinFlowError("port_taken", f"{host}:{port}: {error.strerror or error}") from error
    return made


def steer(host: str, port: int, index: int) -> None:
    """Has new connections come to this one of the sockets; those that are made stay where they are.

    The choice belongs to all sockets of a port, so one that joins them for a moment may change it; as the
    last of them, it is never chosen itself.
    """
    try:
        joined = _joined(host, port)
        try:
            _attach(joined, index)
        finally:
            joined.close()
    except OSError as error:
        raise FinFlowError("ingress_refused", f"{host}:{port}: {error.strerror or error}") from error


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def _joined(host: str, port: int) -> socket.socket:
    """One more socket on a port that is shared."""
    made = _socket(host)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _attach(served: socket.socket, index: int) -> None:
    """A program of one instruction, which any user may give: return the index."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, index))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    served.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
