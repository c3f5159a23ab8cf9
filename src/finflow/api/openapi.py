"""The OpenAPI document: paths and their parameters from Litestar, shapes from the structs that decode them.

A handler says in its `opt` which struct it takes, gives, and reads from the query; msgspec makes the JSON
schemas, so what is documented is what is enforced.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from litestar import Litestar, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig

from finflow import __version__
from finflow.api.answers import Answer, encode
from finflow.api.contract import problems_of
from finflow.api.decoding import HttpRequest
from finflow.api.examples import EXAMPLES, NDJSON_EXAMPLE, PARAMETERS, REFUSED_READINESS
from finflow.api.identity import OPEN
from finflow.api.listings import compressed
from finflow.api.problems import problem_body
from finflow.api.schemas import Problem
from finflow.api.settlement_examples import XML_EXAMPLE
from finflow.kernel.errors import FinFlowError, Kind

SCHEME: Final = "clientCredentials"
_MEANINGS: Final = {
    "accounts:read": "Read accounts, balances and entries.",
    "accounts:write": "Open and change accounts.",
    "transactions:read": "Read transactions.",
    "transactions:write": "Post, capture, void, expire and reverse transactions.",
    "ledgers:read": "Read tenants and ledgers, trial balances and changes.",
    "ledgers:write": "Open ledgers and declare assets.",
    "fx:read": "Read rates, quotes and positions of foreign exchange.",
    "fx:write": "Push rates, make quotes and convert.",
    "settlement:read": "Read participants, payment orders, cycles, netting reports and reconciliations.",
    "settlement:write": "Register participants, give payment orders and messages, have cycles go on.",
    "admin": "Clients of one's own tenant; without a tenant, the platform's operator.",
}
_REF: Final = "#/components/schemas/{name}"
_KEY: Final = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
_REQUEST_ID: Final = {
    "type": "string",
    "description": "1 to 128 visible ASCII characters; anything else is replaced by an id of the server's.",
}


_RETRY_AFTER: Final = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."}
_LIMIT_HEADERS: Final = {
    "RateLimit": {"schema": {"type": "string"}, "description": "What is left of the tenant's limits."},
    "RateLimit-Policy": {"schema": {"type": "string"}, "description": "What the tenant's limits are."},
}
# Not "required" in the sense of the document: its lack has a status of its own.
_IF_MATCH: Final = {
    "required": {"type": "string", "description": "An ETag, several, or `*`. Without it: 428."},
    "optional": {"type": "string", "description": "An ETag, several, or `*`."},
}
# Its own schemas say what a message may hold, better than a document of JSON shapes could.
_XML_BODY: Final = {
    "required": True,
    "content": {
        "application/xml": {
            "schema": {"type": "string", "description": "An ISO 20022 message of at most 64 MiB."},
            "example": XML_EXAMPLE,
        }
    },
}
# Bodies of verbs that need none.
_MAY_BE_LEFT_OUT: Final = ("Capture", "Void", "Expiry", "Reversal", "StatusChange", "Revocation")


@get("/openapi.json", opt={"scope": "open"}, include_in_schema=False)
async def openapi_json(request: HttpRequest) -> Answer:
    app = request.scope["litestar_app"]
    found: bytes | None = getattr(app.state, "openapi", None)
    if found is None:
        found = app.state.openapi = encode(document(app.state.handlers))
    return await compressed(request, found)


def document(handlers: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes as plain dicts."""
    # An application of its own, because Litestar adds HTML pages wherever it documents.
    config = OpenAPIConfig(title="FinFlow", version=__version__, render_plugins=[])
    app = Litestar(list(handlers), openapi_config=config, logging_config=None)
    written: dict[str, Any] = app.openapi_schema.to_schema()
    named: dict[str, type] = {"Problem": Problem}
    for handler in _handlers(app):
        for path in handler.paths:
            item = written["paths"][_plain(path)]
            for method in handler.http_methods:
                _complete(item[method.lower()], handler, named)
    _, components = msgspec.json.schema_components(tuple(named.values()), ref_template=_REF)
    schemas = dict(sorted(components.items()))
    written["components"] = {"schemas": schemas, "securitySchemes": {SCHEME: _security()}}
    return written


def _security() -> dict[str, Any]:
    """How a caller gets its token, and every scope that it can have."""
    flow = {"tokenUrl": "/oauth/token", "scopes": dict(_MEANINGS)}
    return {"type": "oauth2", "flows": {"clientCredentials": flow}}


def _handlers(app: Litestar) -> list[HTTPRouteHandler]:
    return [
        handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and "gives" in handler.opt
    ]


def _plain(path: str) -> str:
    return path.replace(":str}", "}")


def _complete(operation: dict[str, Any], handler: HTTPRouteHandler, named: dict[str, type]) -> None:
    opt = handler.opt
    parameters = [_described(parameter) for parameter in operation.get("parameters", [])]
    parameters += _query_parameters(opt["query"]) if "query" in opt else []
    operation["parameters"] = parameters + _header_parameters(opt)
    operation["security"] = [] if opt["scope"] == OPEN else [{SCHEME: [opt["scope"]]}]
    operation["tags"] = [_tag(next(iter(handler.paths)))]
    if "form" in opt:
        operation["requestBody"] = _form(opt["form"], named)
    if "takes_xml" in opt:
        operation["requestBody"] = _XML_BODY
    if "takes" in opt:
        operation["requestBody"] = _body(opt, named)
    operation["responses"] = _responses(handler, named)


def _tag(path: str) -> str:
    """What a route is about, as the documentation page groups it."""
    if path.startswith("/v1/"):
        return path.split("/")[2].partition(":")[0].capitalize()
    return "Oauth" if path.startswith(("/oauth/", "/.well-known/")) else "Health"


def _described(parameter: dict[str, Any]) -> dict[str, Any]:
    kept = {name: parameter[name] for name in ("name", "in", "required", "schema")}
    return kept | {"example": PARAMETERS[kept["name"]]}


def _header_parameters(opt: dict[str, Any]) -> list[dict[str, Any]]:
    found = [_header("X-Request-Id", False, _REQUEST_ID, "order-4711")]
    if "key" in opt:
        found.append(_header("Idempotency-Key", opt["key"] == "required", _KEY, "dep-2026-0001"))
    if "match" in opt:
        found.append(_header("If-Match", False, _IF_MATCH[opt["match"]], "*"))
    if "conditional" in opt:
        found.append(_header("If-None-Match", False, {"type": "string"}, '"9b2d8f1c0a7e4d53-1"'))
    return found


def _header(name: str, required: bool, schema: dict[str, Any], example: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema, "example": example}


def _body(opt: dict[str, Any], named: dict[str, type]) -> dict[str, Any]:
    shape = opt["takes"]
    content: dict[str, Any] = {
        "application/json": {"schema": _named(shape, named), "example": EXAMPLES[shape.__name__]}
    }
    if "lines" in opt:
        _named(opt["lines"], named)
        schema = {"type": "string", "description": f"One {opt['lines'].__name__} a line."}
        content["application/x-ndjson"] = {"schema": schema, "example": NDJSON_EXAMPLE}
    return {"required": shape.__name__ not in _MAY_BE_LEFT_OUT, "content": content}


def _form(shape: type, named: dict[str, type]) -> dict[str, Any]:
    media = {"schema": _named(shape, named), "example": EXAMPLES[shape.__name__]}
    return {"required": True, "content": {"application/x-www-form-urlencoded": media}}


def _responses(handler: HTTPRouteHandler, named: dict[str, type]) -> dict[str, Any]:
    opt = handler.opt
    shape = opt["gives"]
    good = {"application/json": {"schema": _named(shape, named), "example": EXAMPLES[shape.__name__]}}
    headers: dict[str, Any] = {"X-Request-Id": {"schema": _REQUEST_ID}}
    if "key" in opt:
        headers["Idempotency-Replayed"] = {
            "schema": {"const": "true"},
            "description": "Present when this is the answer of an earlier request.",
        }
    if "tagged" in opt:
        headers["ETag"] = {"schema": {"type": "string"}, "description": "Stands for this state of it."}
    if opt["scope"] != OPEN:
        headers |= _LIMIT_HEADERS
    responses = {str(handler.status_code): {"description": "Done.", "content": good, "headers": headers}}
    if "conditional" in opt:
        responses["304"] = {"description": "If-None-Match names what it still is.", "headers": headers}
    path = next(iter(handler.paths))
    for status, kinds in groupby(problems_of(path, opt), key=lambda kind: kind.status):
        responses[str(status)] = _problems(list(kinds), named)
        if status == 429:
            responses[str(status)]["headers"] = {"Retry-After": _RETRY_AFTER, **_LIMIT_HEADERS}
    if "refuses_form" in opt:
        shape = opt["refuses_form"]
        refused = {"schema": _named(shape, named), "example": EXAMPLES[shape.__name__]}
        for status in ("400", "401"):
            responses[status] = {"description": "Refused.", "content": {"application/json": refused}}
    if "refuses" in opt:
        refusal = {"schema": _named(opt["refuses"], named), "example": REFUSED_READINESS}
        responses["503"] = {"description": "Not now.", "content": {"application/json": refusal}}
    return responses


def _problems(kinds: list[Kind], named: dict[str, type]) -> dict[str, Any]:
    examples = {kind.code: {"summary": kind.title, "value": _problem(kind)} for kind in kinds}
    content = {"schema": _named(Problem, named), "examples": examples}
    description = ", ".join(f"`{kind.code}`" for kind in kinds)
    return {"description": f"One of {description}.", "content": {"application/problem+json": content}}


def _problem(kind: Kind) -> Any:
    return msgspec.to_builtins(problem_body(FinFlowError(kind.code), "req_d9d10afdafd4979f00000001"))


def _named(shape: type, named: dict[str, type]) -> dict[str, str]:
    named[shape.__name__] = shape
    return {"$ref": _REF.format(name=shape.__name__)}


def _query_parameters(shape: type) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components((shape,), ref_template=_REF)
    schema = components[shape.__name__]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(field)}
        | ({"example": PARAMETERS[name]} if name in required else {})
        for name, field in schema["properties"].items()
    ]


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    # A query has no null: a parameter that may be null is one that may be left out.
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return field
    return options[0] if len(options) == 1 else {"anyOf": options}
