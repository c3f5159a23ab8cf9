"""A block of memory that one process writes numbers into and any other process reads, without a lock.

Values are 8-byte floats at 8-byte boundaries, stored by one machine instruction each, so a reader sees the
number before or after, never half of one. What stands where is said by records that are appended behind the
values; a record counts from the moment the header's length covers it, and carries a checksum, because a
processor may show another one the length before the bytes. One thread of one process writes; all may read.

    0   magic, 8 bytes            24  when it was made, seconds since 1970
    8   number of value slots     32  bytes of records that count
    16  bytes for records         64  the values, then the records
"""

import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

MAGIC: Final = b"FFSLOTS1"
SLOTS: Final = 65_536
RECORD_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 64
_SIZES: Final = struct.Struct("<8sQQd")
_LENGTH_AT: Final = 32
_LENGTH: Final = struct.Struct("<Q")
_RECORD: Final = struct.Struct("<II")


def _framed(body: bytes) -> bytes:
    return _RECORD.pack(len(body), zlib.crc32(body)) + body


class Block:
    """The memory: anonymous at first, later perhaps a file's. `values[i]` is the number in slot i."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        _, self.slots, self.record_bytes, self.made_s = _SIZES.unpack_from(memory)
        self.values = memoryview(memory)[HEADER_BYTES : HEADER_BYTES + 8 * self.slots].cast("d")
        self._records_at = HEADER_BYTES + 8 * self.slots
        [self._length] = _LENGTH.unpack_from(memory, _LENGTH_AT)

    @classmethod
    def anonymous(cls, made_s: float, slots: int = SLOTS, record_bytes: int = RECORD_BYTES) -> "Block":
        """Memory of this process alone; pages that nobody writes take no room."""
        memory = mmap.mmap(-1, HEADER_BYTES + 8 * slots + record_bytes)
        _SIZES.pack_into(memory, 0, MAGIC, slots, record_bytes, made_s)
        return cls(memory)

    def append(self, body: bytes) -> bool:
        """Say what stands where; False if there is no more room."""
        return self._put(self._length, _framed(body))

    def prepend(self, body: bytes) -> None:
        """Say something before all else; only while nobody else reads. Left out if there is no room."""
        said = self._memory[self._records_at : self._records_at + self._length]
        self._put(0, _framed(body) + said)

    def _put(self, start: int, content: bytes) -> bool:
        end = start + len(content)
        if end > self.record_bytes:
            return False
        self._memory[self._records_at + start : self._records_at + end] = content
        self._length = end
        _LENGTH.pack_into(self._memory, _LENGTH_AT, end)
        return True

    def write(self, slot: int, content: bytes) -> None:
        """Put bytes where values would stand; they must carry their own checksum, for they can tear."""
        start = HEADER_BYTES + 8 * slot
        self._memory[start : start + len(content)] = content

    def reader(self) -> "BlockReader":
        """How others would see it."""
        return BlockReader(self._memory)

    def image(self) -> bytes:
        """All of it as it is now."""
        return self._memory[:]


class BlockFile:
    """A block in a file that its writer holds a lock on for as long as it lives."""

    def __init__(self, path: Path, block: Block, handle: int) -> None:
        self.path = path
        self.block = block
        self._handle = handle

    @classmethod
    def create(cls, path: Path, image: bytes) -> "BlockFile":
        """A new file with this content. Its room is taken at once: a full disk is an OSError now.

        Without that, the first write to a page for which there is no room would end the process.
        """
        fresh = path.with_suffix(".new")
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(handle, 0, len(image))
            memory = mmap.mmap(handle, len(image))
            memory[:] = image
            fresh.rename(path)
        except OSError:
            os.close(handle)
            fresh.unlink(missing_ok=True)
            raise
        return cls(path, Block(memory), handle)

    def release(self) -> None:
        """Let go of the lock, as the end of the process would; whoever reads next may fold the file."""
        # Closing would not do: the mapping keeps a handle of its own.
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)


def writer_lives(path: Path) -> bool:
    """Whether the process that made the file still holds it. The kernel lets go for those that were killed.

    Raises FileNotFoundError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class BlockReader:
    """A block that somebody writes. Reads number by number, as they were written."""

    def __init__(self, memory: mmap.mmap) -> None:
        """Raises ValueError for what is no block."""
        self._memory = memory
        if len(self._memory) < HEADER_BYTES or self._memory[: len(MAGIC)] != MAGIC:
            raise ValueError("it is not a block of values")
        _, self.slots, self.record_bytes, self.made_s = _SIZES.unpack_from(self._memory)
        if len(self._memory) < HEADER_BYTES + 8 * self.slots + self.record_bytes:
            raise ValueError("it is shorter than it says")
        self._values = memoryview(self._memory)[HEADER_BYTES : HEADER_BYTES + 8 * self.slots].cast("d")
        self._read_to = 0

    @classmethod
    def open(cls, path: Path) -> "BlockReader":
        """Another process's block, mapped into this one. Raises OSError, or ValueError if it is none."""
        with path.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    def numbers(self, count: int) -> list[float]:
        """The first numbers."""
        return cast("list[float]", self._values[:count].tolist())

    def content(self, slot: int, length: int) -> bytes:
        """Bytes that were put where values would stand."""
        start = HEADER_BYTES + 8 * slot
        return self._memory[start : start + length]

    def new_records(self) -> Iterator[bytes]:
        """The records that were appended since the last time."""
        base = HEADER_BYTES + 8 * self.slots
        [length] = _LENGTH.unpack_from(self._memory, _LENGTH_AT)
        length = min(length, self.record_bytes)
        while self._read_to + _RECORD.size <= length:
            size, checksum = _RECORD.unpack_from(self._memory, base + self._read_to)
            start = self._read_to + _RECORD.size
            body = self._memory[base + start : base + start + size]
            # The length was seen before the bytes: the next reading will find them. None is empty.
            if size == 0 or start + size > length or zlib.crc32(body) != checksum:
                return
            self._read_to = start + size
            yield body

    def close(self) -> None:
        """Let go of it; the memory goes when nobody uses it."""
        self._values.release()
