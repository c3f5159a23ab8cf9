"""What a batch needs on the book before it can be decided, and how it gets there: set-based reads."""

from collections.abc import Sequence

import msgspec

from finflow.kernel import ids
from finflow.ledger import store
from finflow.ledger.book import Account, Book, Target
from finflow.ledger.commands import ChangeAccount, DeclareAsset, OpenAccount, PostTransaction, Request
from finflow.ledger.guards import unstorable


class Wanted(msgspec.Struct):
    """Ids, transaction numbers and references that a book lacks for the requests at hand."""

    account_ids: set[str]
    targets: set[int]
    references: set[str]
    assets: bool = False

    def __bool__(self) -> bool:
        return bool(self.account_ids or self.targets or self.references or self.assets)


class Found(msgspec.Struct):
    """What the database had of it."""

    accounts: list[Account]
    targets: list[Target]
    references: dict[str, bool]
    assets: dict[str, int] | None

    def add_to(self, book: Book) -> None:
        """Put it on the book; what the book has already is as new or newer."""
        for account in self.accounts:
            if account.account_no not in book.by_number:
                book.add(account)
        for target in self.targets:
            book.targets.setdefault(target.seq, target)
        for reference, taken in self.references.items():
            book.references.setdefault(reference, taken)
        if book.assets is None:
            book.assets = self.assets


def needs(book: Book, requests: Sequence[Request]) -> Wanted:
    """What is missing. Ids that point elsewhere are not looked for: they are unknown to this ledger."""
    known = book.accounts
    wanted = Wanted(set(), set(), set())
    for command in [request.command for request in requests]:
        if isinstance(command, PostTransaction):
            for line in command.entries:
                if line.account_id not in known:
                    wanted.account_ids.add(line.account_id)
            if command.quote is not None and -command.quote.number not in book.targets:
                wanted.targets.add(-command.quote.number)
        else:
            _other_needs(book, command, wanted)
    return wanted


def _other_needs(book: Book, command: object, wanted: Wanted) -> None:
    if isinstance(command, OpenAccount | DeclareAsset):
        wanted.assets = wanted.assets or book.assets is None
        reference = getattr(command, "external_reference", None)
        # A text that cannot be stored is no account's reference; the rules refuse it.
        if reference is not None and not unstorable(reference) and reference not in book.references:
            wanted.references.add(reference)
    elif isinstance(command, ChangeAccount):
        if command.account_id not in book.accounts:
            wanted.account_ids.add(command.account_id)
    else:
        locator = ids.parse("txn", getattr(command, "transaction_id", ""))
        ours = locator is not None and locator.ledger_no == book.ledger_no
        if locator is not None and ours and locator.number not in book.targets:
            wanted.targets.add(locator.number)


async def load(connection: store.Connection, ledger_no: int, wanted: Wanted) -> Found:
    targets = (
        await store.find_targets(connection, ledger_no, sorted(wanted.targets)) if wanted.targets else []
    )
    account_nos = set(store.account_nos_of(ledger_no, wanted.account_ids))
    account_nos |= {line[0] for target in targets for line in target.lines}
    accounts = await store.find_accounts(connection, ledger_no, sorted(account_nos)) if account_nos else []
    references: dict[str, bool] = {}
    if wanted.references:
        taken = await store.find_references(connection, ledger_no, sorted(wanted.references))
        references = {reference: reference in taken for reference in wanted.references}
    assets = await store.find_assets(connection, ledger_no) if wanted.assets else None
    return Found(accounts, targets, references, assets)
