"""The building blocks of a message: parts with declared elements, and what is kept word for word.

A part is a frozen struct. Each field names its element (`name=`), an attribute ("@Ccy") or the text of
the element itself ("#"). Elements that a part does not declare are kept as XML with their place, and are
written back there: nothing of a message is lost because FinFlow does not know it.
"""

import datetime as dt
import re
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from finflow.kernel import money
from finflow.kernel.errors import FinFlowError

_MAX_DIGITS: Final = 18
_MOMENT: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,12})?(Z|[+-]\d\d:\d\d)?"

Text35 = Annotated[str, msgspec.Meta(min_length=1, max_length=35)]
Text140 = Annotated[str, msgspec.Meta(min_length=1, max_length=140)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
# External code sets are words of one to four characters; the schemas list the closed ones.
Code = Annotated[str, msgspec.Meta(min_length=1, max_length=4)]
Count = Annotated[str, msgspec.Meta(pattern=r"[0-9]{1,15}")]
Country = Annotated[str, msgspec.Meta(pattern=r"[A-Z]{2}")]
Bic = Annotated[str, msgspec.Meta(pattern=r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?")]
Lei = Annotated[str, msgspec.Meta(pattern=r"[A-Z0-9]{18}[0-9]{2}")]
Iban = Annotated[str, msgspec.Meta(pattern=r"[A-Z]{2}[0-9]{2}[a-zA-Z0-9]{1,30}")]
Uetr = Annotated[
    str, msgspec.Meta(pattern=r"[a-f0-9]{8}-[a-f0-9]{4}-4[a-f0-9]{3}-[89ab][a-f0-9]{3}-[a-f0-9]{12}")
]
Flag = Annotated[str, msgspec.Meta(pattern="true|false|1|0")]
# The text is kept as it came: a datetime would lose the seventh decimal and the way the zone is written.
Moment = Annotated[str, msgspec.Meta(pattern=_MOMENT)]


class Kept(msgspec.Struct, frozen=True):
    """An element that is not understood: its XML, and the name of the declared element that it follows."""

    after: str
    xml: str


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An element with declared children. `kept` holds the children that are not declared."""

    kept: tuple[Kept, ...] = ()


def optional(name: str) -> Any:
    """The field of an element that may be absent."""
    return msgspec.field(name=name, default=None)


def required(name: str) -> Any:
    """The field of an element that must be there."""
    return msgspec.field(name=name)


def repeated(name: str) -> Any:
    """The field of an element that may come any number of times, also never."""
    return msgspec.field(name=name, default=())


class Amount(Part, frozen=True, kw_only=True):
    """An amount of ISO 20022: unsigned, 18 digits, with no more decimals than ISO 4217 gives the currency.

    Raises currency_unknown, amount_malformed, amount_too_precise or amount_out_of_range when it is made.
    """

    currency: str = required("@Ccy")
    value: Decimal = required("#")

    def __post_init__(self) -> None:
        exponent = money.exponent_of(self.currency)
        if exponent is None:
            raise FinFlowError("currency_unknown", f"{self.currency[:10]!r} is not in ISO 4217", "Ccy")
        if not self.value.is_finite() or self.value.is_signed():
            raise FinFlowError("amount_malformed", f"{self.value} is not an unsigned decimal")
        _, digits, scale = self.value.as_tuple()
        assert isinstance(scale, int), "a finite decimal has an integer scale"
        if -scale > exponent:
            raise FinFlowError("amount_too_precise", f"{self.value} has more decimals than {self.currency}")
        if len(digits) + max(scale, 0) > _MAX_DIGITS:
            raise FinFlowError("amount_out_of_range", f"{self.value} has more than {_MAX_DIGITS} digits")

    @property
    def minor(self) -> int:
        """Minor units of the currency; 18 digits always fit 64 bits with its decimals, or raise."""
        exponent = money.exponent_of(self.currency)
        assert exponent is not None, "the constructor has looked the currency up"
        counted = int(self.value.scaleb(exponent))
        if counted > money.MAX_MINOR:
            raise FinFlowError("amount_out_of_range", f"{self.value} {self.currency}")
        return counted


def amount_of(minor: int, currency: str) -> Amount:
    """The amount of a count of minor units."""
    exponent = money.exponent_of(currency)
    if exponent is None:
        raise FinFlowError("currency_unknown", f"{currency[:10]!r} is not in ISO 4217", "Ccy")
    return Amount(currency=currency, value=Decimal(money.to_text(minor, exponent)))


def to_datetime(moment: str) -> dt.datetime:
    """A datetime of an ISO 20022 moment, cut to microseconds; UTC where it names no zone."""
    whole, _, rest = moment.partition(".")
    digits = re.match(r"\d*", rest)
    fraction = digits[0] if digits else ""
    zone = rest[len(fraction) :] if rest else ""
    try:
        found = dt.datetime.fromisoformat(
            f"{whole}.{fraction[:6].ljust(6, '0')}{zone}" if fraction else moment
        )
    except ValueError as error:
        raise FinFlowError("message_invalid", f"{moment[:40]!r} is not a moment") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)
