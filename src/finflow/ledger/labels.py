"""What never changes of accounts, remembered per tenant and ledger: a cache that cannot be stale, bounded."""

from typing import Final

from finflow.ledger.book import Account
from finflow.ledger.views import Label, label_of

MAX_LABELS: Final = 100_000


class Labels:
    """Labels by account number, for each ledger that a tenant asked about."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._known: dict[tuple[int, int], dict[int, Label]] = {}
        self._count = 0

    def of(self, tenant_no: int, ledger_no: int) -> dict[int, Label]:
        """The labels that this tenant has seen on this ledger, by account number."""
        return self._known.setdefault((tenant_no, ledger_no), {})

    def remember(self, tenant_no: int, account: Account) -> Label:
        """The account's label, kept; where there are too many, the others go first."""
        if self._count >= MAX_LABELS:
            self.clear()
        self._count += 1
        label = self.of(tenant_no, account.ledger_no)[account.account_no] = label_of(account)
        return label
