"""What an import did, as figures and as lines to look at. Pure."""

import msgspec


class Report(msgspec.Struct):
    """What an import did. `rows` counts data lines; `balances_*` are zero without verification.

    `posted` are new, `replayed` were in the ledger already, `refused` the ledger said no to, `broken` could
    not be read, `unchained` did not follow from the balance before (posted all the same), `unmoved` had the
    amount zero. `seconds` and `transactions_per_s` measure reading and posting, not verifying.
    """

    rows: int = 0
    posted: int = 0
    refused: int = 0
    replayed: int = 0
    broken: int = 0
    unchained: int = 0
    unmoved: int = 0
    rounding_legs: int = 0
    balances_checked: int = 0
    balances_equal: int = 0
    seconds: float = 0.0
    transactions_per_s: float = 0.0

    def clean(self) -> bool:
        """Whether every line went in and every checked balance was equal."""
        faults = self.refused + self.broken + self.unchained
        return faults == 0 and self.balances_checked == self.balances_equal


class LineFault(msgspec.Struct, frozen=True):
    """A line of the file that the user should look at. `code`: broken, unchained, or the ledger's refusal."""

    line: int
    code: str
    reason: str
