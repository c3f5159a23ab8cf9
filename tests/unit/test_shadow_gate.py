"""The gate that reads a shadow's report, and reads whose noise is cancelled by a second baseline."""

import asyncio
from pathlib import Path
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Check
from finflow.rollout.verdicts import Verdict
from finflow.shadow.check import ShadowCheck
from finflow.shadow.reads import Answer, differing, places, read_file
from finflow.shadow.report import LedgerLag, Report, read_cases, read_report, write_report

GOOD = Report(0.0, 1, "running", "1.0", 0.0, {"match": 30_000}, [LedgerLag(1, 9, 9, 0, 0, 0.0)], 7_000.0, 0)


@pytest.mark.parametrize(
    ("changes", "age_s", "verdict"),
    [
        ({}, 0, Verdict.PASS),
        ({"outcomes": {"match": 29_990, "follows": 5, "benign": 5}}, 0, Verdict.PASS),
        ({"outcomes": {"match": 9}}, 0, Verdict.INCONCLUSIVE),
        ({"outcomes": {"late": 40_000}}, 0, Verdict.INCONCLUSIVE),
        ({"outcomes": {}}, 0, Verdict.INCONCLUSIVE),
        ({"ledgers": [LedgerLag(1, 99, 9, 0, 90, 11.0)]}, 0, Verdict.INCONCLUSIVE),
        ({"state": "failed"}, 0, Verdict.ERROR),
        ({}, 60, Verdict.ERROR),
        # The clock was set back: what a dead shadow said last would stay young for an hour.
        ({}, -3_600, Verdict.ERROR),
        ({"outcomes": {"match": 30_000, "mismatch": 1}}, 0, Verdict.FAIL),
        ({"outcomes": {"match": 30_000, "missing": 1}}, 0, Verdict.FAIL),
        ({"outcomes": {"match": 30_000, "extra": 1}}, 0, Verdict.FAIL),
        ({"outcomes": {"refused-differently": 1}}, 0, Verdict.FAIL),
        ({"outcomes": {"mismatch": 1}, "state": "stopped"}, 600, Verdict.FAIL),
    ],
)
def test_the_gate(tmp_path: Path, changes: dict[str, Any], age_s: float, verdict: Verdict) -> None:
    write_report(tmp_path, replace(GOOD, at_s=time() - age_s, **changes))
    check: Check = ShadowCheck(tmp_path, min_compared=1_000, max_lag_s=10)
    found = asyncio.run(check.judge())
    assert found.verdict is verdict, found.words
    assert found.numbers["compared"] == sum(n for o, n in changes.get("outcomes", {"match": 30_000}).items()
                                            if o != "late")  # fmt: skip


def test_the_gate_says_the_bound(tmp_path: Path) -> None:
    write_report(tmp_path, replace(GOOD, at_s=time()))
    found = asyncio.run(ShadowCheck(tmp_path).judge())
    assert found.numbers["bound"] == 0.0001
    assert "30,000" in found.words
    assert "0.0100%" in found.words


@pytest.mark.parametrize(
    ("by_release", "verdict"),
    [
        ({"1.0": 30_000}, Verdict.INCONCLUSIVE),
        ({"1.0": 29_901, "1.1": 99}, Verdict.INCONCLUSIVE),
        ({"1.0": 29_700, "1.1": 300}, Verdict.PASS),
        (None, Verdict.PASS),
    ],
)
def test_comparisons_of_the_baseline_say_nothing_of_the_candidate(
    tmp_path: Path, by_release: dict[str, int] | None, verdict: Verdict
) -> None:
    write_report(tmp_path, replace(GOOD, at_s=time(), by_release=by_release))
    check = ShadowCheck(tmp_path, candidate="1.1", min_of_candidate=100)
    found = asyncio.run(check.judge())
    assert found.verdict is verdict
    if by_release and verdict is Verdict.PASS:
        # 3/n with the candidate's own n.
        assert "0 of 300: below 1.0000%" in found.words
        assert found.numbers["compared_of_candidate"] == 300


def test_no_shadow_is_an_error_and_no_pass(tmp_path: Path) -> None:
    assert asyncio.run(ShadowCheck(tmp_path).judge()).verdict is Verdict.ERROR
    (tmp_path / "report.json").write_text("{")
    assert asyncio.run(ShadowCheck(tmp_path).judge()).verdict is Verdict.ERROR
    with pytest.raises(FinFlowError, match="shadow_report_malformed"):
        read_report(tmp_path)
    assert read_cases(tmp_path) == []


# --- reads -------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_no_places_means_equal(one: Any, other: Any) -> None:
    assert places(one, one) == {}
    found = places(one, other)
    assert bool(found) == bool(places(other, one))
    if one != other:
        assert found


@given(VALUES, VALUES)
def test_what_baselines_do_not_agree_on_is_noise(first: Any, second: Any) -> None:
    # Whatever the two baselines say, a candidate that says what one of them says is not different.
    assert differing(Answer(200, first), Answer(200, first), Answer(200, second))[0] == {}
    real, _ = differing(Answer(200, second), Answer(200, first), Answer(200, second))
    assert real == {}


@pytest.mark.parametrize(
    ("candidate", "first", "second", "expected"),
    [
        ({"a": 1, "at": 3}, {"a": 1, "at": 1}, {"a": 1, "at": 2}, []),
        ({"a": 2, "at": 3}, {"a": 1, "at": 1}, {"a": 1, "at": 2}, ["a"]),
        ({"a": 1}, {"a": 1, "at": 1}, {"a": 1, "at": 1}, ["at"]),
        ([1, 2], [1, 3], [1, 3], ["[1]"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, {"a": [{"b": 2}]}, ["a[0].b"]),
        ({"a": 1}, {"a": True}, {"a": True}, ["a"]),
        ({"a": []}, {"a": [1]}, {"a": [1, 2]}, []),
    ],
)
def test_where_a_candidate_differs(candidate: Any, first: Any, second: Any, expected: list[str]) -> None:
    real, _ = differing(Answer(200, candidate), Answer(200, first), Answer(200, second))
    assert sorted(real) == expected


def test_a_status_differs_unless_the_baselines_do() -> None:
    assert sorted(differing(Answer(500, {}), Answer(200, {}), Answer(200, {}))[0]) == ["status"]
    assert differing(Answer(500, {}), Answer(200, {}), Answer(404, {})) == ({}, True)


def test_recorded_reads(tmp_path: Path) -> None:
    path = tmp_path / "reads"
    path.write_text(
        "".join(f"/v1/a/{n}\n" for n in range(100)) + '{"path": "/v1/b", "headers": {"x": "y"}}\n'
    )
    assert len(read_file(path, 10)) <= 10
    assert read_file(path, 1_000)[-1].headers == {"x": "y"}
    path.write_text("http://elsewhere/\n")
    with pytest.raises(FinFlowError, match="file_unreadable"):
        read_file(path, 10)
