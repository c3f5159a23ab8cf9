"""Errors as RFC 9457 problem details: the catalogue's entry, what exactly, where, and the request's id."""

import logging
from typing import Any, Final

from litestar import Request
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)

from finflow.api.admission import Refused
from finflow.api.answers import PROBLEM_JSON, REPLAYED, Answer, Header, encode
from finflow.api.methods import allowed
from finflow.api.schemas import Problem
from finflow.api.traced import FAILURE, FIRST_FAILURE
from finflow.kernel.errors import FinFlowError
from finflow.telemetry.instruments import PROBLEM

log = logging.getLogger(__name__)

TYPE_PREFIX: Final = "urn:finflow:error:"
_CHALLENGED: Final = (401, 403)
RETRY_AFTER: Final = (b"retry-after", b"1")


def problem(error: FinFlowError, request_id: str, replayed: bool = False) -> Answer:
    """The answer to an error of the catalogue; those that pass by themselves say when to come again."""
    kind = error.kind
    PROBLEM[kind.code].inc()
    body = problem_body(error, request_id)
    headers: list[Header] = [PROBLEM_JSON]
    if kind.status == 503 or (kind.status == 409 and kind.retryable):
        headers.append(RETRY_AFTER)
    if isinstance(error, Refused):
        headers += [(b"retry-after", b"%d" % error.wait_s), *error.headers]
    if kind.status in _CHALLENGED:
        headers.append(_challenge(error))
    if replayed:
        headers.append(REPLAYED)
    return Answer(kind.status, encode(body), headers)


def _challenge(error: FinFlowError) -> Header:
    """RFC 6750 section 3: what a bearer token would have to be."""
    said = {"token_missing": "", "scope_insufficient": f', error="insufficient_scope", scope="{error.param}"'}
    invalid = ', error="invalid_token"' if error.kind.status == 401 else ', error="insufficient_scope"'
    return (b"www-authenticate", f'Bearer realm="finflow"{said.get(error.kind.code, invalid)}'.encode())


def problem_body(error: FinFlowError, request_id: str) -> Problem:
    """The problem that an error is."""
    kind = error.kind
    return Problem(
        TYPE_PREFIX + kind.code, kind.title, kind.status, error.detail, kind.code, error.param, kind.hint,
        request_id, kind.retryable,
    )  # fmt: skip


def request_id_of(request: Request[Any, Any, Any]) -> str:
    """The id that the envelope gave this request."""
    return str(request.scope["state"]["request_id"])


def note_failure(scope: Any, error: FinFlowError) -> None:
    """Our own failures are told of by their code wherever the request is, not by their status alone."""
    if error.kind.status >= FIRST_FAILURE:
        scope["state"][FAILURE] = error.kind.code


class ProblemResponse:
    """What Litestar wants of an exception handler: something that becomes an ASGI application."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def to_asgi_response(self, *_: Any, **__: Any) -> Answer:
        return self._answer


def on_error(request: Request[Any, Any, Any], error: Exception) -> Any:
    """Litestar's exception handler for everything: routing, rules of the house, and bugs."""
    found = _as_ours(error)
    request_id = request_id_of(request)
    if found.kind.code == "internal":
        # Whoever raised our own error has logged its cause once, for all the requests that it met.
        cause = None if found is error else error
        log.error(
            "request failed", exc_info=cause, extra={"request_id": request_id, "path": request.url.path}
        )
    note_failure(request.scope, found)
    answer = problem(found, request_id)
    if isinstance(error, MethodNotAllowedException):
        answer.headers = [*answer.headers, (b"allow", allowed(request.app, request.scope["path"]).encode())]
    return ProblemResponse(answer)


def _as_ours(error: Exception) -> FinFlowError:
    if isinstance(error, FinFlowError):
        return error
    if isinstance(error, NotFoundException):
        return FinFlowError("route_unknown")
    if isinstance(error, MethodNotAllowedException):
        return FinFlowError("method_not_allowed")
    if isinstance(error, ClientException) and error.status_code == 413:
        return FinFlowError("request_too_large")
    if isinstance(error, HTTPException) and error.status_code < 500:
        return FinFlowError("request_malformed", error.detail or None)
    return FinFlowError("internal")
