"""Hooks for schemathesis: lines as a body, and ids that exist about half of the time."""

import os
from typing import Any

import schemathesis

KNOWN = {
    "tenant_id": os.environ["FINFLOW_TENANT_ID"],
    "ledger_id": os.environ["FINFLOW_LEDGER"],
    "account_id": os.environ["FINFLOW_ACCOUNT"],
    "transaction_id": os.environ["FINFLOW_TXN"],
}


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def _known(values: Any) -> Any:
    """The same values with ids that exist where the first letter of what was made says so."""
    if not isinstance(values, dict):
        return values
    return {
        name: KNOWN[name] if name in KNOWN and isinstance(value, str) and len(value) % 2 == 0 else value
        for name, value in values.items()
    }


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    return _known(path_parameters)


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    return _known(query)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    return _known(body)
