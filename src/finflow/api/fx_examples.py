"""An example of everything about foreign exchange that travels, for the OpenAPI document."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from finflow.api.fx_schemas import NewConversion, NewQuote, NewRate, NewRates, RatePage, Rates
from finflow.fx.views import FoundRateView, PositionsView, PositionView, QuoteView, RateView
from finflow.kernel import ids
from finflow.kernel.clock import to_micros

_AT: Final = datetime(2026, 11, 22, 19, 0, 0, 123456, UTC)
_UNTIL: Final = datetime(2026, 11, 23, 19, 0, 0, 123456, UTC)
_MICROS: Final = to_micros(_AT)
_LEDGER: Final = ids.mint("led", _MICROS, 1, 0)
_EURO: Final = ids.mint("acc", _MICROS, 1, 5)
_DOLLAR: Final = ids.mint("acc", _MICROS, 1, 6)
_QUOTE: Final = ids.mint("fxq", _MICROS, 1, 1)
_RATE: Final = RateView(
    ids.mint("fxr", _MICROS, 1, 1), _LEDGER, "EUR", "USD", "1.0835", "ECB", _AT, _UNTIL, _AT
)
_QUOTE_VIEW: Final = QuoteView(
    _QUOTE, _LEDGER, "open", "EUR", "100.00", "USD", "107.80", "1.0835", "0.005", "1.0780825", "direct",
    "108.35", "0.54", "0.01", "0", [_RATE.rate_id], _AT,
    datetime(2026, 11, 22, 19, 1, 0, 123456, UTC), None,
)  # fmt: skip

FX_PARAMETERS: Final[dict[str, Any]] = {"quote_id": _QUOTE, "base": "EUR", "quote": "USD"}

FX_VALUES: Final[tuple[msgspec.Struct, ...]] = (
    NewRates(_LEDGER, [NewRate("EUR", "USD", "1.0835", "ECB", _AT, _UNTIL)]),
    Rates([_RATE]),
    RatePage([_RATE], None),
    FoundRateView("EUR", "USD", "1.0835", "direct", _AT, [_RATE]),
    NewQuote(_LEDGER, "EUR", "USD", "100.00", spread="0.005"),
    _QUOTE_VIEW,
    NewConversion(_QUOTE, _EURO, _DOLLAR),
    PositionsView(
        _LEDGER,
        [PositionView("EUR", "100.00", "0.00", "0.00", ids.mint("acc", _MICROS, 1, 7), None, None)],
    ),
)
