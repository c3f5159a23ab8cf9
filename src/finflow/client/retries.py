"""What a failure means: is it worth another attempt, when, and may the request have been done? Pure."""

from typing import Final

import msgspec

from finflow.kernel.errors import CATALOGUE, FinFlowError

_FIRST_DELAY_S: Final = 0.05
_LAST_DELAY_S: Final = 2.0
_LONGEST_WAIT_S: Final = 3600.0
_MAX_KEPT_TEXT: Final = 500
# The request may be done, or be done in a moment: only the same key can tell.
_IN_DOUBT: Final = frozenset({"outcome_unknown", "deadline_exceeded", "idempotency_in_progress"})
_GATEWAY: Final = (502, 503, 504)


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 problem details as the house writes them; every field may be missing in a stranger's."""

    code: str = ""
    detail: str = ""
    param: str | None = None
    request_id: str | None = None
    retryable: bool = False


class OutcomeUnknown(FinFlowError):
    """A write whose outcome nobody could tell in time. Call again with `idempotency_key` to learn it."""

    def __init__(self, idempotency_key: str, cause: FinFlowError) -> None:
        detail = f"No definite answer in time; the request's Idempotency-Key is {idempotency_key} ({cause})"
        super().__init__("outcome_unknown", detail)
        self.idempotency_key = idempotency_key


class Failure(msgspec.Struct, frozen=True):
    """One attempt that failed.

    `again`: another one may succeed. `in_doubt`: this one may have been done all the same. `definite`: the
    server has decided about the request, whatever became of the attempts before. `wait_s`: seconds before
    which the server does not want to be asked again.
    """

    error: FinFlowError
    again: bool
    in_doubt: bool = False
    definite: bool = False
    wait_s: float = 0.0


class RetryBudget:
    """How many retries a client may still spend, so that many callers together do not feed an overload.

    A retry costs one; an answer earns half of one back. Whoever is in doubt may always ask: a transaction
    that may be booked matters more.
    """

    def __init__(self, tokens: float = 100.0) -> None:
        self._most = self._tokens = tokens

    def earn(self) -> None:
        """Count an answer."""
        self._tokens = min(self._most, self._tokens + 0.5)

    def spend(self) -> bool:
        """Take one retry out; False if none is left."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def failure_of(status: int, body: bytes, retry_after: str | None = None) -> Failure:
    """What an error response means; `retry_after` is the header's text."""
    problem = problem_of(status, body)
    strange = status in _GATEWAY and not problem.code
    return Failure(
        error_of(status, problem),
        again=problem.retryable,
        in_doubt=problem.code in _IN_DOUBT or strange,
        definite=status < 500 and not problem.retryable,
        wait_s=_seconds(retry_after),
    )


def problem_of(status: int, body: bytes) -> Problem:
    """The problem in an error response; a body that is none keeps its text as the detail."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        text = body[:_MAX_KEPT_TEXT].decode("utf-8", "replace")
        # A proxy's 502, 503 or 504 says nothing about the request: the same key may be sent again.
        return Problem(detail=f"HTTP {status}: {text}", retryable=status in _GATEWAY)


def error_of(status: int, problem: Problem) -> FinFlowError:
    """The catalogue's error of a problem; a code that this release does not know becomes `internal`."""
    if problem.code in CATALOGUE:
        return FinFlowError(problem.code, problem.detail or None, problem.param)
    trace = f" (request {problem.request_id})" if problem.request_id else ""
    return FinFlowError("internal", f"HTTP {status} {problem.code} {problem.detail}{trace}", problem.param)


def retry_delay_s(attempt: int, unit: float, wait_s: float = 0.0) -> float:
    """Seconds before attempt number `attempt` (from 1): doubling, capped, full jitter by `unit` in [0, 1).

    Never before `wait_s`, which the server asked for; up to a quarter later, so that not all come at once.
    """
    ceiling = min(_LAST_DELAY_S, _FIRST_DELAY_S * float(2 ** min(attempt - 1, 16)))
    # Never zero: a server that refuses at once would be asked in a tight loop.
    return max(ceiling * (0.1 + 0.9 * unit), wait_s * (1 + 0.25 * unit))


def _seconds(retry_after: str | None) -> float:
    """A Retry-After in seconds; one that is a date, or nonsense, counts for nothing."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 0.0
    return min(float(retry_after[:9]), _LONGEST_WAIT_S)
