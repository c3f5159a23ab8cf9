"""The rules for accounts and assets: columns of guards like those of `model.py`, their one door."""

from msgspec import UNSET, structs

from finflow.kernel import money
from finflow.ledger.book import CREDIT, DEBIT, Account, Book, Record, Refusal
from finflow.ledger.commands import ChangeAccount, DeclareAsset, OpenAccount
from finflow.ledger.guards import (
    MAX_METADATA,
    MAX_REFERENCE,
    RANK,
    amount_refusal,
    longer,
    metadata_length,
    unstorable,
)


def open_account(book: Book, command: OpenAccount, record: Record) -> Refusal | None:
    exponent = book.exponent_of(command.currency)
    reference = command.external_reference
    if longer(reference, MAX_REFERENCE): return Refusal("field_too_long", "external_reference")
    if metadata_length(command.metadata) > MAX_METADATA: return Refusal("field_too_long", "metadata")
    if unstorable(reference): return Refusal("text_malformed", "external_reference")
    if exponent is None: return Refusal("currency_unknown", "currency")
    if reference is not None and book.references.get(reference):
        return Refusal("external_reference_taken", "external_reference")
    limits = _read_limits(command.overdraft_limit, command.upper_limit, exponent)
    if isinstance(limits, Refusal):
        return limits
    book.account_no += 1
    normal = DEBIT if command.kind in ("asset", "expense") else CREDIT
    account = Account(
        book.ledger_no, book.account_no, record.seq, record.recorded_at, command.currency, exponent,
        command.kind, normal, "open", limits[0], limits[1], command.external_reference, command.metadata,
    )  # fmt: skip
    book.add(account)
    record.account = structs.replace(account)
    if reference is not None:
        book.references[reference] = True
    book.on_roll_back(lambda: _unopen(book, account))
    return None


def _unopen(book: Book, account: Account) -> None:
    book.forget(account.account_no)
    book.account_no -= 1
    if account.external_reference is not None:
        book.references[account.external_reference] = False


def change_account(book: Book, command: ChangeAccount, record: Record) -> Refusal | None:
    account = book.accounts.get(command.account_id)
    metadata = None if command.metadata is UNSET else command.metadata
    if metadata_length(metadata) > MAX_METADATA: return Refusal("field_too_long", "metadata")
    if account is None: return Refusal("account_unknown", "account_id")
    if command.if_match is not None and account.settings_tag not in command.if_match:
        return Refusal("precondition_failed", "If-Match")
    if account.status == "closed": return Refusal("account_closed", "account_id")
    limits = _changed_limits(account, command)
    if isinstance(limits, Refusal):
        return limits
    floor, ceiling = limits
    if floor is not None and account.available < floor: return Refusal("limit_in_use", "overdraft_limit")
    if ceiling is not None and account.expected > ceiling: return Refusal("limit_in_use", "upper_limit")
    if command.status == "closed" and not _is_empty(account): return Refusal("account_not_empty", "status")
    _change(book, account, command, limits)
    record.account = structs.replace(account)
    return None


def _change(book: Book, account: Account, command: ChangeAccount, limits: "Limits") -> None:
    before = (account.floor, account.ceiling, account.metadata, account.status)

    def undo() -> None:
        account.floor, account.ceiling, account.metadata, account.status = before

    book.on_roll_back(undo)
    account.floor, account.ceiling = limits
    account.metadata = account.metadata if command.metadata is UNSET else command.metadata
    account.status = account.status if command.status is UNSET else command.status


def declare_asset(book: Book, command: DeclareAsset, record: Record) -> Refusal | None:
    declared = (book.assets or {}).get(command.code)
    code = command.code
    if not 1 <= len(code) <= 20: return Refusal("field_too_long", "code")
    if not (code.isascii() and code.isalnum() and code.isupper()): return Refusal("text_malformed", "code")
    if not 0 <= command.exponent <= money.MAX_EXPONENT: return Refusal("asset_conflict", "exponent")
    if money.exponent_of(code) is not None: return Refusal("asset_conflict", "code")
    if declared is not None and declared != command.exponent: return Refusal("asset_conflict", "exponent")
    before = book.assets
    book.assets = {**(before or {}), code: command.exponent}
    book.on_roll_back(lambda: setattr(book, "assets", before))
    return None


Limits = tuple[int | None, int | None]


def _read_limits(overdraft: str | None, upper: str | None, exponent: int) -> Limits | Refusal:
    """Floor and ceiling in minor units; a limit may be zero, never negative."""
    limits = ((overdraft, "overdraft_limit"), (upper, "upper_limit"))
    codes = [(_limit_refusal(text, exponent), param) for text, param in limits]
    broken = [(RANK[code], Refusal(code, param)) for code, param in codes if code is not None]
    if broken:
        return min(broken, key=lambda pair: pair[0])[1]
    floor = None if overdraft is None else -money.to_minor(overdraft, exponent)
    return floor, None if upper is None else money.to_minor(upper, exponent)


def _limit_refusal(text: str | None, exponent: int) -> str | None:
    code = None if text is None else amount_refusal(text, exponent)
    if text is None or code != "amount_not_positive" or text.startswith("-"): return code
    return None  # the amount is zero, and a limit may be


def _changed_limits(account: Account, command: ChangeAccount) -> Limits | Refusal:
    overdraft = None if command.overdraft_limit is UNSET else command.overdraft_limit
    upper = None if command.upper_limit is UNSET else command.upper_limit
    limits = _read_limits(overdraft, upper, account.exponent)
    if isinstance(limits, Refusal):
        return limits
    floor = account.floor if command.overdraft_limit is UNSET else limits[0]
    ceiling = account.ceiling if command.upper_limit is UNSET else limits[1]
    return floor, ceiling


def _is_empty(account: Account) -> bool:
    return account.balance == 0 and account.pending_debits == 0 and account.pending_credits == 0
