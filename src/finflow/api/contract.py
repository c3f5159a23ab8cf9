"""Which codes of the catalogue a route can answer, read off what the route takes: for the document.

Schemathesis holds real answers to it: a status that a route does not list is a failure of the tests.
"""

from typing import Any, Final

from finflow.kernel.errors import CATALOGUE, Kind

_ALWAYS: Final = ("deadline_exceeded", "internal")
_WITH_TOKEN: Final = ("token_missing", "token_invalid", "token_expired", "scope_insufficient")
_LIMITED: Final = ("rate_limited", "concurrency_limited")
# What a caller hears who belongs to a tenant where none may, or to none where one must.
_MISPLACED: Final = {"required": ("tenant_required",), "optional": (), "none": ("operator_required",)}
_WITH_DATABASE: Final = ("database_unreachable",)
_WITH_BODY: Final = ("request_malformed", "request_too_large", "media_type_unsupported")
_WITH_KEY: Final = ("idempotency_key_malformed",)
_PAGES: Final = ("cursor_malformed", "cursor_mismatch")
# What any command can meet on its way into the journal.
_COMMAND: Final = (
    "idempotency_conflict", "idempotency_in_progress", "overloaded", "outcome_unknown", "database_full",
)  # fmt: skip
_LINES: Final = (
    "account_unknown", "account_closed", "account_frozen", "currency_mismatch", "amount_malformed",
    "amount_too_precise", "amount_out_of_range", "amount_not_positive",
)  # fmt: skip
_BALANCES: Final = ("balance_out_of_range", "exceeds_available", "exceeds_limit")
_LIMITS: Final = ("amount_malformed", "amount_too_precise", "amount_out_of_range", "amount_not_positive")
_PENDING: Final = (
    "transaction_unknown", "not_pending", "already_posted", "already_voided", "already_expired",
)  # fmt: skip

# By the name of the struct that the route decodes: the refusals of what is made from it.
_REFUSALS: Final[dict[str, tuple[str, ...]]] = {
    "NewTransaction": (
        "ledger_unknown", "too_few_entries", "too_many_entries", "field_too_long", "text_malformed",
        "value_date_out_of_range", *_LINES, "unbalanced", *_BALANCES,
    ),
    "NewBatch": ("idempotency_key_missing", "ledger_unknown", "batch_empty", "batch_too_large"),
    "Capture": (
        *_PENDING, "field_too_long", "value_date_out_of_range", "capture_needs_two_entries",
        "capture_exceeds_pending", "account_closed", "account_frozen", *_LIMITS, *_BALANCES,
    ),
    "Void": (*_PENDING, "field_too_long", *_BALANCES),
    "Expiry": (*_PENDING, "not_expired", *_BALANCES),
    "Reversal": (
        "transaction_unknown", "not_reversible", "already_reversed", "field_too_long",
        "value_date_out_of_range", "account_closed", "account_frozen", *_BALANCES,
    ),
    "NewAccount": (
        "ledger_unknown", "field_too_long", "text_malformed", "currency_unknown",
        "external_reference_taken", *_LIMITS,
    ),
    "AccountChange": (
        "precondition_required", "precondition_failed", "field_too_long", "account_closed",
        "account_not_empty", "limit_in_use", *_LIMITS,
    ),
    "StatusChange": ("precondition_failed", "account_closed", "account_not_empty"),
    "NewAsset": ("ledger_unknown", "field_too_long", "text_malformed", "asset_conflict"),
    "LimitsChange": ("precondition_required", "precondition_failed"),
    "NewLedger": ("tenant_unknown",),
    "NewClient": ("tenant_unknown", "scope_not_granted", "jwk_malformed"),
    "NewClientKey": ("client_revoked", "client_keys_full", "client_key_taken", "jwk_malformed"),
    "NewRates": (
        "ledger_unknown", "currency_unknown", "same_currency", "rate_malformed", "rate_conflict",
        "validity_malformed", "database_full",
    ),
    "NewQuote": (
        "ledger_unknown", "currency_unknown", "same_currency", "spread_malformed", "pair_unknown",
        "rate_stale", "converts_to_zero", *_LIMITS,
    ),
    "NewConversion": (
        "quote_unknown", "quote_used", "quote_expired", "account_unknown", "account_closed",
        "account_frozen", "currency_mismatch", *_BALANCES,
    ),
    "ParticipantDraft": (
        "ledger_unknown", "participant_conflict", "too_many_participants", "currency_unknown",
        "obligation_to_self", "external_reference_taken", "overloaded", "outcome_unknown", "database_full",
        *_LIMITS,
    ),
    "NewOrder": (
        "ledger_unknown", "participant_unknown", "mirror_missing", "order_malformed", "order_duplicate",
        "uetr_malformed", "uetr_duplicate", "currency_unknown", "cut_off_unknown", "calendar_exhausted",
        *_LINES, *_BALANCES,
    ),
    "NewOrders": (
        "ledger_unknown", "batch_empty", "batch_too_large", "cut_off_unknown", "calendar_exhausted",
    ),
    "NostroDraft": (
        "ledger_unknown", "participant_unknown", "nostro_conflict", "overloaded", "database_full",
    ),
    "OrderReturn": ("overloaded", "database_full"),
    "CycleEnd": ("overloaded", "database_full"),
    "CutOffDraft": ("ledger_unknown", "calendar_unknown", "zone_unknown", "database_full"),
    "MessageQuery": (
        "request_too_large", "media_type_unsupported", "xml_malformed", "xml_forbidden", "xml_too_large",
        "message_unsupported", "message_invalid", "message_not_understood", "message_inconsistent",
        "message_duplicate", "answer_malformed", "nostro_unknown", "participant_unknown", "mirror_missing",
        "order_malformed", "order_duplicate", "uetr_malformed", "uetr_duplicate", "currency_unknown",
        "cut_off_unknown", "calendar_exhausted", "idempotency_in_progress", "idempotency_conflict",
        "overloaded", "outcome_unknown", "database_full", *_LINES,
    ),
    "RateQuery": ("same_currency", "pair_unknown", "rate_stale"),
}  # fmt: skip
_FOUND_BY_PATH: Final = {
    "account_id": "resource_unknown",
    "transaction_id": "resource_unknown",
    "ledger_id": "ledger_unknown",
    "tenant_id": "tenant_unknown",
    "client_id": "client_unknown",
    "kid": "client_key_unknown",
    "quote_id": "quote_unknown",
    "order_id": "order_unknown",
    "cycle_id": "cycle_unknown",
}


def problems_of(path: str, opt: dict[str, Any]) -> list[Kind]:
    """The catalogue's entries that a route can answer, by status and code; `opt` is the handler's."""
    codes = set(_ALWAYS)
    if opt["scope"] != "open":
        codes |= {*_WITH_TOKEN, *_LIMITED, *_MISPLACED[opt.get("tenant", "required")]}
    if path.startswith("/v1/"):
        codes |= {*_WITH_DATABASE, "request_malformed"}
    if "takes" in opt:
        codes |= {*_WITH_BODY, *_REFUSALS.get(opt["takes"].__name__, ())}
    if "form" in opt:
        # The rest of what a form can get wrong is told in the words of RFC 6749.
        codes |= {*_WITH_DATABASE, "request_too_large", "rate_limited"}
    if "key" in opt:
        codes |= {*_WITH_KEY, *_COMMAND}
    if opt.get("key") == "required":
        codes.add("idempotency_key_missing")
    if "query" in opt:
        codes |= {*_of_query(set(opt["query"].__struct_fields__)), *_REFUSALS.get(opt["query"].__name__, ())}
    codes |= set(opt.get("codes", ()))
    codes |= {code for name, code in _FOUND_BY_PATH.items() if f"{{{name}" in path}
    return sorted((CATALOGUE[code] for code in codes), key=lambda kind: (kind.status, kind.code))


def _of_query(fields: set[str]) -> set[str]:
    codes = {"request_malformed"}
    if "cursor" in fields:
        codes |= set(_PAGES)
    if "ledger_id" in fields:
        codes.add("ledger_unknown")
    if "cycle_id" in fields:
        codes.add("cycle_unknown")
    if "account_id" in fields:
        codes |= {"resource_unknown", "id_malformed"}
    return codes
