"""The check of an import: every balance of the file against the ledger's own entries, read back over HTTP."""

import asyncio
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

from finflow.client.service import Client

_PARTS = 64
_READERS = 8


class ExpectedBalances:
    """What each transaction should leave its customer with, kept on disk in parts by account.

    A part is read back at a time, so a file far larger than memory can be checked.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._stack = ExitStack()
        self._parts: list[IO[str]] = []

    def __enter__(self) -> "ExpectedBalances":
        if self._enabled:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="finflow-verify-")))
            for number in range(_PARTS):
                file = (folder / str(number)).open("w+", encoding="ascii")
                self._parts.append(self._stack.enter_context(file))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, account_id: str, transaction_id: str, balance: str) -> None:
        """Remember one balance; `balance` as the interface writes it."""
        if self._enabled:
            part = self._parts[zlib.crc32(account_id.encode()) % _PARTS]
            part.write(f"{account_id} {transaction_id} {balance}\n")

    def parts(self) -> Iterator[dict[str, dict[str, str]]]:
        """Account id -> transaction id -> balance, one part of the accounts at a time."""
        for file in self._parts:
            file.seek(0)
            part: dict[str, dict[str, str]] = defaultdict(dict)
            for line in file:
                account_id, transaction_id, balance = line.split()
                part[account_id][transaction_id] = balance
            yield part


async def count_equal(api: Client, expected: ExpectedBalances) -> tuple[int, int]:
    """(checked, equal): how many balances were expected, and how many the ledger has just so."""
    checked = equal = 0
    for part in expected.parts():
        checked += sum(map(len, part.values()))
        accounts = list(part.items())
        for first in range(0, len(accounts), _READERS):
            some = accounts[first : first + _READERS]
            equal += sum(await asyncio.gather(*(_equal_of_account(api, *account) for account in some)))
    return checked, equal


async def _equal_of_account(api: Client, account_id: str, wanted: dict[str, str]) -> int:
    """How many wanted balances the account's entries show; reads newest first and only as far as needed."""
    seen: set[str] = set()
    equal = 0
    async for entry in api.entries(account_id):
        # The newest entry of a transaction stands behind its rounding leg; older ones do not count.
        if entry.transaction_id in wanted and entry.transaction_id not in seen:
            seen.add(entry.transaction_id)
            equal += entry.balance == wanted[entry.transaction_id]
            if len(seen) == len(wanted):
                break
    return equal
