"""An API worker of a release with a fault: it books ten times what it is asked to."""

from finflow.api.asgi import application
from finflow.kernel import money
from finflow.ledger import model

__all__ = ["application"]

_right = money.to_minor


class _Wrong:
    """The room's money, one function of it wrong."""

    def __getattr__(self, name: str) -> object:
        return getattr(money, name)

    @staticmethod
    def to_minor(text: str, exponent: int) -> int:
        return 10 * _right(text, exponent)


model.money = _Wrong()  # type: ignore[assignment] # the fault
