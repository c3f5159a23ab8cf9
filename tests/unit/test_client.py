"""What the client makes of failures, without a socket."""

import pytest

from finflow.client.retries import error_of, problem_of, retry_delay_s


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable", "words"),
    [
        (422, b'{"code":"unbalanced","detail":"off by 1"}', "unbalanced", False, "off by 1"),
        (503, b'{"code":"overloaded","detail":"full","retryable":true}', "overloaded", True, "full"),
        (
            418,
            b'{"code":"teapot","detail":"t","request_id":"r1"}',
            "internal",
            False,
            "teapot t (request r1)",
        ),
        (502, b"<html>bad gateway</html>", "internal", True, "HTTP 502: <html>bad gateway"),
        (500, b"", "internal", False, "HTTP 500"),
        (400, b"[]", "internal", False, "HTTP 400: []"),
    ],
)
def test_problems_become_errors_of_the_catalogue(
    status: int, body: bytes, code: str, retryable: bool, words: str
) -> None:
    problem = problem_of(status, body)
    error = error_of(status, problem)
    assert (error.kind.code, problem.retryable) == (code, retryable)
    assert words in error.detail


def test_the_param_of_a_problem_is_kept() -> None:
    problem = problem_of(422, b'{"code":"account_unknown","detail":"no","param":"entries[1].account_id"}')
    assert error_of(422, problem).param == "entries[1].account_id"


def test_pauses_double_up_to_two_seconds_and_are_never_zero() -> None:
    longest = [retry_delay_s(attempt, 1.0) for attempt in range(1, 9)]
    assert longest == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert all(0 < retry_delay_s(attempt, 0.0) <= 0.2 for attempt in (1, 5, 100, 10_000))
