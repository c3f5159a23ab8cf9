"""The OpenAPI document: paths and their parameters from Litestar, shapes from the structs that decode them.

A handler says in its `opt` which struct it takes, gives, and reads from the query; msgspec makes the JSON
schemas, so what is documented is what is enforced.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from litestar import Litestar, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig

from finflow import __version__
from finflow.api.answers import Answer, ok
from finflow.api.decoding import HttpRequest
from finflow.api.schemas import Problem

_REF: Final = "#/components/schemas/{name}"
_KEY: Final = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
_REQUEST_ID: Final = {"type": "string", "maxLength": 128, "pattern": "^[!-~]+$"}


@get("/openapi.json", include_in_schema=False)
async def openapi_json(request: HttpRequest) -> Answer:
    app = request.scope["litestar_app"]
    found: Answer | None = getattr(app.state, "openapi", None)
    if found is None:
        found = app.state.openapi = ok(document(app.state.handlers))
    return found


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
    written["components"] = {"schemas": dict(sorted(components.items()))}
    return written


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
    if "key" in opt:
        required = opt["key"] == "required"
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": required, "schema": _KEY})
    parameters.append({"name": "X-Request-Id", "in": "header", "required": False, "schema": _REQUEST_ID})
    operation["parameters"] = parameters
    if "takes" in opt:
        content = {"application/json": {"schema": _named(opt["takes"], named)}}
        if "lines" in opt:
            content["application/x-ndjson"] = {"schema": _named(opt["lines"], named)}
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = _responses(handler, named)


def _described(parameter: dict[str, Any]) -> dict[str, Any]:
    return {name: parameter[name] for name in ("name", "in", "required", "schema")}


def _responses(handler: HTTPRouteHandler, named: dict[str, type]) -> dict[str, Any]:
    opt = handler.opt
    good = {"application/json": {"schema": _named(opt["gives"], named)}}
    problem = {"application/problem+json": {"schema": _named(Problem, named)}}
    headers: dict[str, Any] = {"X-Request-Id": {"schema": _REQUEST_ID}}
    if "key" in opt:
        headers["Idempotency-Replayed"] = {
            "schema": {"const": "true"},
            "description": "Present when this is the answer of an earlier request.",
        }
    responses: dict[str, Any] = {
        str(handler.status_code): {"description": "Done.", "content": good, "headers": headers},
    }
    if "refuses" in opt:
        refusal = {"application/json": {"schema": _named(opt["refuses"], named)}}
        responses["503"] = {"description": "Not now.", "content": refusal}
    responses["default"] = {"description": "A problem of the catalogue.", "content": problem}
    return responses


def _named(shape: type, named: dict[str, type]) -> dict[str, str]:
    named[shape.__name__] = shape
    return {"$ref": _REF.format(name=shape.__name__)}


def _query_parameters(shape: type) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components((shape,), ref_template=_REF)
    schema = components[shape.__name__]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(field)}
        for name, field in schema["properties"].items()
    ]


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    # A query has no null: a parameter that may be null is one that may be left out.
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return field
    return options[0] if len(options) == 1 else {"anyOf": options}
