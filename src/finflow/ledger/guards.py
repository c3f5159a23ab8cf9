"""The order of all rules, and the guards that several of them share. Pure."""

from datetime import UTC, datetime
from typing import Final

from finflow.kernel import money
from finflow.kernel.clock import to_micros
from finflow.ledger.book import Refusal
from finflow.ledger.commands import Metadata

PRECEDENCE: Final = (
    # the command by itself
    "too_few_entries",
    "too_many_entries",
    "field_too_long",
    "text_malformed",
    "value_date_out_of_range",
    "timeout_out_of_range",
    "currency_unknown",
    "asset_conflict",
    "external_reference_taken",
    # the quote it uses up
    "quote_used",
    "quote_expired",
    # the transaction it names
    "transaction_unknown",
    "not_pending",
    "not_reversible",
    "already_posted",
    "already_voided",
    "already_expired",
    "already_reversed",
    "not_expired",
    "capture_needs_two_entries",
    # each entry
    "account_unknown",
    "precondition_failed",
    "account_closed",
    "account_frozen",
    "currency_mismatch",
    "amount_malformed",
    "amount_too_precise",
    "amount_out_of_range",
    "amount_not_positive",
    "capture_exceeds_pending",
    # the entries together
    "unbalanced",
    # the accounts after it
    "balance_out_of_range",
    "exceeds_available",
    "exceeds_limit",
    "limit_in_use",
    "account_not_empty",
    # its group
    "group_refused",
)
RANK: Final = {code: rank for rank, code in enumerate(PRECEDENCE)}

# The calendar that Python and PostgreSQL share, in UTC, less its ends, which drivers read as infinity.
_DAY_US: Final = 86_400_000_000
_FIRST_MOMENT: Final = to_micros(datetime.min.replace(tzinfo=UTC)) + _DAY_US
_LAST_MOMENT: Final = to_micros(datetime.max.replace(tzinfo=UTC)) - _DAY_US

MAX_DESCRIPTION: Final = 500
MAX_REFERENCE: Final = 140
MAX_METADATA: Final = 4_096


def amount_refusal(amount: str, exponent: int) -> str | None:
    try:
        minor = money.to_minor(amount, exponent)
    except money.Malformed:
        return "amount_malformed"
    except money.TooPrecise:
        return "amount_too_precise"
    except money.OutOfRange:
        return "amount_out_of_range"
    return "amount_not_positive" if minor <= 0 else None


def longer(text: str | None, limit: int) -> bool:
    return text is not None and len(text) > limit


def long_description(text: str | None) -> Refusal | None:
    return Refusal("field_too_long", "description") if longer(text, MAX_DESCRIPTION) else None


def metadata_length(metadata: Metadata | None) -> int:
    return sum(len(name) + len(value) for name, value in metadata.items()) if metadata else 0


def unstorable(text: str | None) -> bool:
    """PostgreSQL cannot hold the character NUL in a text."""
    return text is not None and "\0" in text


def outside(number: int | None, least: int, most: int) -> bool:
    """Whether a number was given and is too small or too large."""
    return number is not None and not least <= number <= most


def outside_calendar(effective_at: datetime | None) -> bool:
    """The first and the last days of the calendar may be no date in UTC."""
    return effective_at is not None and outside(to_micros(effective_at), _FIRST_MOMENT, _LAST_MOMENT)


def value_date(effective_at: datetime | None, recorded_at: int) -> int:
    """Microseconds of a value date, by default the booking time."""
    return recorded_at if effective_at is None else to_micros(effective_at)
