"""Verification without a service: YAML and its lines, variables, comparisons, order, masking, reports."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from finflow.kernel.errors import FinFlowError
from finflow.verification import loading, report
from finflow.verification.model import (
    Missing,
    Outcome,
    Report,
    Status,
    at,
    difference,
    filled,
    masked,
    metric_sum,
    selected,
)

_GOOD = """\
name: shop
inputs: [token]
checks:
  - id: first
    kind: http
    tags: [smoke]
    path: /one
    capture: {one: /id}
  - id: second
    kind: http
    path: /two/${one}
  - id: undo
    kind: http
    cleans_up: true
    method: DELETE
    path: /one/${one}
"""


def _refusal(text: str) -> str:
    with pytest.raises(FinFlowError) as raised:
        loading.parse(text, "s.yaml")
    assert raised.value.kind.code == "verification_malformed"
    assert raised.value.kind.exit_code == 2
    return raised.value.detail


def test_the_shipped_spec_has_twelve_smoke_checks() -> None:
    spec = loading.parse(loading.shipped("bank"))
    assert sum("smoke" in check.tags for check in spec.checks) == 12
    chosen = {check.id for check in selected(spec, ["smoke"])}
    # What the twelve stand on, and what takes back what they book, comes with them.
    assert {"cash", "hold", "quote", "conversion-back", "post-back", "order-back", "close-customer"} <= chosen
    assert "database-write" not in chosen


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("    path: /one\n", "    pth: /one\n"), 7, "unknown field `pth`"),
        (("    tags: [smoke]\n", "    tags: smoke\n"), 6, "Expected `array`"),
        (("    kind: http\n    tags", "    kind: htpp\n    tags"), 5, "htpp"),
        (("id: second", "id: first"), 9, "two checks 'first'"),
        (("/two/${one}", "/two/${eno}"), 9, "${eno}"),
        (("    path: /one\n", "    path: /one\n    url: http://x\n"), 4, "either a path or a url"),
        (("    path: /one\n", "    path: /one\n    path: /two\n"), 8, "stands twice"),
        (("    path: /one\n", "    path: /one\n    after: [undo]\n"), 4, "waits for itself"),
        (("    path: /one\n", "    path: /one\n    after: [nobody]\n"), 4, "'nobody', which is not a check"),
        (("    path: /one\n", "    path: /one\n    timeout_s: 0\n"), 8, "> 0"),
        (("    path: /one\n", "    path: [/one\n"), 8, "expected"),
        (("name: shop\n", "name: shop\nurls: x\n"), 2, "unknown field `urls`"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_spec_is_said_with_its_line(
    change: tuple[str, str], line: int, words: str
) -> None:
    assert change[0] in _GOOD
    detail = _refusal(_GOOD.replace(change[0], change[1], 1))
    assert detail.startswith(f"s.yaml:{line}:"), detail
    assert words in detail


def test_what_is_no_spec_at_all_is_refused() -> None:
    assert _refusal("").startswith("s.yaml:1:")
    assert _refusal("- 1\n").startswith("s.yaml:1:")
    assert "nests them too deep" in _refusal("name: x\nchecks: &a\n  - *a\n")
    assert _refusal("name: x\nchecks: !!python/object/apply:os.system [ls]\n").startswith("s.yaml:2:")
    assert "s.yaml" in _refusal("name: \x00\n")


def test_sql_takes_variables_as_arguments_only() -> None:
    text = """\
name: x
inputs: [who]
checks:
  - id: a
    kind: sql
    database: DB
    statements: ["select '${who}'"]
"""
    assert "s.yaml:4:" in _refusal(text)


def test_checks_are_chosen_with_what_they_need_and_what_cleans_up() -> None:
    spec = loading.parse(_GOOD)
    assert [check.id for check in selected(spec, ["smoke"])] == ["first", "undo"]
    assert [check.id for check in selected(spec, [])] == ["first", "second", "undo"]


def test_variables_are_filled_in_everywhere() -> None:
    found = filled({"a": ["x-${n}", 1, None], "${n}": "${env.E}$${n}"}, {"n": "7"}, {"E": "e"})
    assert found == {"a": ["x-7", 1, None], "7": "e${n}"}
    for text, name in (("${other}", "other"), ("${env.NO}", "env.NO"), ("${empty}", "empty")):
        with pytest.raises(Missing) as raised:
            filled(text, {"empty": ""}, {})
        assert raised.value.name == name


# What contains what, by hand.
_CONTAINED: list[tuple[Any, Any]] = [
    ({}, {"a": 1}), ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": {"b": [1, {"c": None}]}}, {"a": {"b": [1, {"c": None, "d": 1}]}}),
    ([], []), ("x", "x"), (1, 1.0), (None, None), (True, True),
]  # fmt: skip
_NOT_CONTAINED: list[tuple[Any, Any, str]] = [
    ({"a": 1}, {}, "/a is missing"), ({"a": 1}, {"a": 2}, "/a is 2, not 1"),
    ({"a": {}}, {"a": 1}, "/a is 1, not an object"),
    ([1], [1, 2], "/ is [1,2], not [1]"), ({"a": [1, 2]}, {"a": [1, 3]}, "/a/1 is 3, not 2"),
    (True, 1, "/ is 1, not true"),
    (1, True, "/ is true, not 1"), ("1", 1, '/ is 1, not "1"'),
    (None, 0, "/ is 0, not null"), ([], {}, "/ is {}, not []"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "found"), _CONTAINED)
def test_a_part_is_contained(expected: Any, found: Any) -> None:
    assert difference(expected, found) is None


@pytest.mark.parametrize(("expected", "found", "words"), _NOT_CONTAINED)
def test_a_part_is_not_contained(expected: Any, found: Any, words: str) -> None:
    assert difference(expected, found) == words


def test_pointers_follow_rfc_6901() -> None:
    # The document and the pointers of the RFC's section 5.
    document = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8, " ": 7}
    values = {"": document, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/m~0n": 8, "/ ": 7}
    assert {pointer: at(document, pointer) for pointer in values} == values
    for pointer in ("/nothing", "/foo/2", "/foo/-1", "/foo/x", "/foo/0/x"):
        with pytest.raises(KeyError):
            at(document, pointer)


def test_metrics_are_read_as_prometheus_writes_them() -> None:
    registry = CollectorRegistry()
    counter = Counter("jobs", "Jobs.", ["queue", "kind"], registry=registry)
    counter.labels('a"b\\c', "x").inc(2)
    counter.labels('a"b\\c', "y").inc(3)
    counter.labels("d\ne", "x").inc(5)
    text = generate_latest(registry).decode()
    assert metric_sum(text, "jobs_total", {}) == 10
    assert metric_sum(text, "jobs_total", {"queue": 'a"b\\c'}) == 5
    assert metric_sum(text, "jobs_total", {"queue": "d\ne"}) == 5
    assert metric_sum(text, "jobs_total", {"queue": "none"}) is None
    assert metric_sum(text, "jobs", {}) is None


def test_secrets_are_masked_in_every_form() -> None:
    secret = 'p/ss "wörd'  # noqa: S105 - what is to be masked
    text = f'{secret} | p%2Fss%20%22w%C3%B6rd | p/ss%20%22w%C3%B6rd | {{"a":"p/ss \\"wörd"}}'
    assert masked(text, [secret, "", "x"]) == '*** | *** | *** | {"a":"***"}'
    assert masked("secretsecret-long", ["secret", "secret-long"]) == "******"


def _outcome(name: str, status: Status, words: str = "", answered: bool | None = True) -> Outcome:
    return Outcome(
        id=name, kind="http", title="", tags=[], status=status, words=words, duration_s=0.25,
        answered=answered,
    )  # fmt: skip


def _report(*outcomes: Outcome) -> Report:
    return Report(
        name="shop", url="http://x", run="r", at="2026-01-01T00:00:00Z", duration_s=1.5, outcomes=outcomes
    )


def test_junit_is_xml_that_another_parser_reads() -> None:
    bad = 'it says <no> & "never" \x00\x1b[31m ]]> \ud800'.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace"
    )
    given = _report(
        _outcome("a", Status.PASSED), _outcome("b", Status.FAILED, bad), _outcome("c", Status.SKIPPED, "no x")
    )
    root = ET.fromstring(report.junit(given))  # noqa: S314 - what we wrote ourselves
    assert root.tag == "testsuites"
    [suite] = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["a", "b", "c"]
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], ["skipped"]]
    assert (cases[1][0].get("message") or "").startswith('it says <no> & "never" ??[31m ]]>')


@pytest.mark.parametrize(
    ("outcomes", "plain", "strict"),
    [
        ([_outcome("a", Status.PASSED)], 0, 0),
        ([_outcome("a", Status.PASSED), _outcome("b", Status.SKIPPED, answered=None)], 0, 1),
        ([_outcome("a", Status.PASSED), _outcome("b", Status.FAILED)], 1, 1),
        ([_outcome("a", Status.SKIPPED, answered=None)], 1, 1),
        ([], 1, 1),
        ([_outcome("a", Status.FAILED, answered=False)], 3, 3),
        ([_outcome("a", Status.FAILED, answered=False), _outcome("b", Status.FAILED)], 1, 1),
    ],
)
def test_the_exit_code_says_how_it_ended(outcomes: list[Outcome], plain: int, strict: int) -> None:
    given = _report(*outcomes)
    assert (given.exit_code(), given.exit_code(strict=True)) == (plain, strict)
