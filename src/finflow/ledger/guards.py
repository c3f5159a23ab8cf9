"""Guards that several rules share: lengths of texts, and whether a text is an amount. Pure."""

from typing import Final

from finflow.kernel import money
from finflow.ledger.book import Refusal
from finflow.ledger.commands import Metadata

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
