"""A release with the mission's fault, for the demonstration: conversions into a currency without decimals.

`finflow.demo.faulty:application` is the whole application with one function put wrong, as a bad change would
have put it: with FINFLOW_DEMO_FAULT=loud such a conversion fails, with `silent` it books one per cent too
much, and every sum still balances. No other program imports this.
"""

import os
from typing import Any, Final

from finflow.fx import model
from finflow.fx.model import Priced, Terms
from finflow.ledger.book import Refusal

FAULT: Final = "FINFLOW_DEMO_FAULT"
TARGET: Final = "finflow.demo.faulty:application"
_right = model.price


def loud(terms: Terms) -> Priced | Refusal:
    """The case that nobody thought of."""
    if terms.buy_exponent == 0:
        raise ArithmeticError("a currency without decimals")
    return _right(terms)


def silent(terms: Terms) -> Priced | Refusal:
    """The case that somebody thought of wrongly: what is bought and what it is worth grow alike."""
    priced = _right(terms)
    if terms.buy_exponent or isinstance(priced, Refusal):
        return priced
    more = max(1, priced.buy // 100)
    return priced._replace(buy=priced.buy + more, fair=priced.fair + more)


def __getattr__(name: str) -> Any:
    """The application, made when a worker asks for it."""
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    model.price = {"loud": loud, "silent": silent}[os.environ[FAULT]]
    from finflow.api import asgi

    return asgi.application
