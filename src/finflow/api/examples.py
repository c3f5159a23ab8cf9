"""An example of everything that travels, for the OpenAPI document: values of the types, so none can drift."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from finflow.api.clients import ClientPage, NewClient, NewClientKey, PublicJwk, Revocation
from finflow.api.fx_examples import FX_PARAMETERS, FX_VALUES
from finflow.api.limits import LimitsChange
from finflow.api.oauth import (
    ASSERTION_TYPE,
    GRANT,
    Jwk,
    Jwks,
    Metadata,
    TokenRefusal,
    TokenRequest,
)
from finflow.api.schemas import (
    AccountChange,
    AccountPage,
    Asset,
    BatchMember,
    BatchResult,
    Capture,
    ChangePage,
    EntryPage,
    Expiry,
    Health,
    HoldPage,
    LedgerPage,
    MemberResult,
    NewAccount,
    NewAsset,
    NewBatch,
    NewLedger,
    NewTenant,
    NewTransaction,
    Readiness,
    Reversal,
    StatusChange,
    TenantPage,
    TransactionPage,
    Void,
)
from finflow.api.settlement_examples import SETTLEMENT_PARAMETERS, SETTLEMENT_VALUES
from finflow.identity.model import SCOPES
from finflow.identity.views import ClientView, KeyView, TokenView
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.ledger.commands import EntryLine
from finflow.ledger.views import (
    AccountView,
    BalanceView,
    ChangeView,
    CurrencyTotals,
    EntryView,
    HoldView,
    LedgerView,
    LineView,
    TenantView,
    TransactionView,
    TrialBalanceView,
)
from finflow.limits.service import LimitsView

_AT: Final = datetime(2026, 11, 22, 19, 0, 0, 123456, UTC)
_LATER: Final = datetime(2026, 11, 29, 19, 0, 0, 123456, UTC)
_MICROS: Final = to_micros(_AT)
_TENANT: Final = ids.mint("ten", _MICROS, 0, 1)
_LEDGER: Final = ids.mint("led", _MICROS, 1, 0)
_CASH: Final = ids.mint("acc", _MICROS, 1, 1)
_ALICE: Final = ids.mint("acc", _MICROS, 1, 2)
_POSTED: Final = ids.mint("txn", _MICROS, 1, 3)
_HELD: Final = ids.mint("txn", _MICROS, 1, 4)
_NEXT: Final = "AYdCx3kP6wAAAAAAAAAD"

# What stands for the parameters of paths and queries.
_CLIENT: Final = "cli_01m82g0ssteh4r000000000002"
# The key of RFC 8037, appendix A, and its thumbprint.
_X: Final = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
_THUMBPRINT: Final = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
PARAMETERS: Final[dict[str, Any]] = {
    "tenant_id": _TENANT,
    "ledger_id": _LEDGER,
    "account_id": _ALICE,
    "transaction_id": _POSTED,
    "client_id": _CLIENT,
    "kid": _THUMBPRINT,
    **FX_PARAMETERS,
    **SETTLEMENT_PARAMETERS,
}

_LINES: Final = [EntryLine(_CASH, "debit", "12.50", "SGD"), EntryLine(_ALICE, "credit", "12.50", "SGD")]
_TENANT_VIEW: Final = TenantView(_TENANT, "Example Bank", _AT)
_LEDGER_VIEW: Final = LedgerView(_LEDGER, _TENANT, "Retail", _AT)
_ACCOUNT_VIEW: Final = AccountView(
    _ALICE,
    _LEDGER,
    "SGD",
    "liability",
    "credit",
    "open",
    "0.00",
    None,
    "customer-1042",
    {"branch": "1"},
    _AT,
    1,
)
_BALANCE_VIEW: Final = BalanceView(_ALICE, "SGD", 1, 3, "0.00", "12.50", "0.00", "0.00", "12.50", "12.50")
_ENTRY_VIEW: Final = EntryView(
    _ALICE, 1, 3, _POSTED, "posted", "credit", "12.50", "SGD", "12.50", "12.50", _AT, _AT
)
_TRANSACTION_VIEW: Final = TransactionView(
    _POSTED, _LEDGER, 3, "post", "posted",
    [
        LineView(_CASH, "debit", "12.50", "SGD", 1, "12.50"),
        LineView(_ALICE, "credit", "12.50", "SGD", 1, "12.50"),
    ],
    _AT, _AT, "Cash deposit", "dep-2026-0001",
)  # fmt: skip
_CHANGE_VIEW: Final = ChangeView(
    5, _AT, "cli_back_office", "freeze-1042", "change_account", _ALICE, "done", None, None,
    {"account_id": _ALICE, "status": "frozen"},
)  # fmt: skip

_JWK: Final = PublicJwk("OKP", crv="Ed25519", x=_X)
_CLIENT_VIEW: Final = ClientView(
    _CLIENT, _TENANT, "Back office", ["accounts:read", "transactions:write"], _AT, None,
    [KeyView(_THUMBPRINT, "EdDSA", _AT, None)],
)  # fmt: skip
_METADATA: Final = Metadata(
    "https://bank.example", "https://bank.example/oauth/token", "https://bank.example/.well-known/jwks.json",
    list(SCOPES), [], [GRANT], ["private_key_jwt"], ["EdDSA"],
)  # fmt: skip

_VALUES: Final[tuple[msgspec.Struct, ...]] = (
    NewClient("Back office", ["accounts:read", "transactions:write"], _JWK, _TENANT),
    NewClientKey(_JWK),
    Revocation(),
    _CLIENT_VIEW,
    ClientPage([_CLIENT_VIEW], None),
    TokenRequest(GRANT, ASSERTION_TYPE, "eyJhbGciOiJFZERTQSJ9.e30.c2ln", "accounts:read"),
    TokenView("eyJhbGciOiJFZERTQSJ9.e30.c2ln", "Bearer", 900, "accounts:read"),
    TokenRefusal("invalid_client", "The client is not known, or none of its keys signed this assertion."),
    Jwks([Jwk("20261122T220000Z-kPrK_qmxVWaY", "OKP", "Ed25519", _X, "EdDSA")]),
    _METADATA,
    LimitsChange(requests_per_s=200, burst=400),
    LimitsView(_TENANT, 200, 400, 256, ["requests_per_s", "burst"], 1),
    NewTenant("Example Bank"),
    NewLedger("Retail"),
    NewAsset(_LEDGER, "POINTS", 0),
    NewAccount(_LEDGER, "SGD", "liability", "0.00", None, "customer-1042", {"branch": "1"}),
    AccountChange(overdraft_limit="100.00", metadata={"branch": "2"}),
    StatusChange(),
    NewTransaction(entries=_LINES, description="Cash deposit", reference="dep-2026-0001", ledger_id=_LEDGER),
    BatchMember(entries=_LINES, idempotency_key="dep-2026-0001"),
    NewBatch(_LEDGER, [BatchMember(entries=_LINES, idempotency_key="dep-2026-0001")], atomic=False),
    Capture("10.00"),
    Void("The order was cancelled"),
    Expiry(),
    Reversal("Booked twice"),
    _TENANT_VIEW,
    _LEDGER_VIEW,
    _ACCOUNT_VIEW,
    _BALANCE_VIEW,
    _TRANSACTION_VIEW,
    Asset(_LEDGER, "POINTS", 0),
    TrialBalanceView(
        _LEDGER, 3, True, [CurrencyTotals("SGD", "12.50", "12.50", "0.00", "0.00", balanced=True)]
    ),
    TenantPage([_TENANT_VIEW], None),
    LedgerPage([_LEDGER_VIEW], None),
    AccountPage([_ACCOUNT_VIEW], _NEXT),
    EntryPage([_ENTRY_VIEW], _NEXT),
    HoldPage([HoldView(_HELD, 2, 4, "debit", "5.00", "SGD", "order-77", _AT, _LATER)], None),
    ChangePage([_CHANGE_VIEW], None),
    TransactionPage([_TRANSACTION_VIEW], _NEXT),
    BatchResult(1, 0, 0, [MemberResult("dep-2026-0001", 201, False, _POSTED, 3)]),
    Health("ok", 4242, "0.1.0"),
    Readiness("ready", "reachable"),
    *FX_VALUES,
    *SETTLEMENT_VALUES,
)
EXAMPLES: Final[dict[str, Any]] = {type(value).__name__: msgspec.to_builtins(value) for value in _VALUES}
NDJSON_EXAMPLE: Final = "".join(
    msgspec.json.encode(value).decode() + "\n" for value in _VALUES if isinstance(value, BatchMember)
)
REFUSED_READINESS: Final = msgspec.to_builtins(Readiness("unready", "unreachable"))
