"""Recordings: every shape is read as it says, published cases are decided as published."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from finflow.cli.rollout_judge import judge
from finflow.kernel.errors import FinFlowError
from finflow.rollout.offline import decide, fitting
from finflow.rollout.sources.recorded import RecordedSource, read_recording
from finflow.rollout.verdicts import Histogram, Side, Verdict

_B, _C = Side.BASELINE, Side.CANDIDATE
_CASES = json.loads((Path(__file__).parents[1] / "data" / "canary" / "cases.json").read_text())


def _decided(path: Path, alpha: float = 0.01) -> Verdict:
    recording = read_recording(str(path))
    return decide(recording, fitting(recording, alpha=alpha, min_requests=None)).verdict


@pytest.mark.parametrize("case", _CASES["cases"], ids=lambda case: case["name"])
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_published_canary_cases_are_decided_as_published(
    kind: str, case: dict[str, str], tmp_path: Path
) -> None:
    series = {side: _CASES["series"][case[side]] for side in ("baseline", "candidate")}
    path = tmp_path / f"case.{kind}"
    if kind == "json":
        path.write_text(json.dumps(series))
    else:
        rows = zip(series["baseline"], series["candidate"], strict=True)
        path.write_text("baseline,candidate\n" + "".join(f"{one},{other}\n" for one, other in rows))
    assert _decided(path) == case["verdict"]


@pytest.mark.parametrize("offset", range(0, 30, 3))
def test_seventy_per_cent_of_a_published_series_times_100_fails_wherever_the_points_lie(
    offset: int, tmp_path: Path
) -> None:
    usual = _CASES["series"]["usual"]
    worse = [100 * value if (7 * (number + offset)) % 10 < 7 else value for number, value in enumerate(usual)]
    assert sum(one != other for one, other in zip(usual, worse, strict=True)) == 21
    (tmp_path / "case.json").write_text(json.dumps({"baseline": usual, "candidate": worse}))
    assert _decided(tmp_path / "case.json") is Verdict.FAIL


def test_looks_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    path.write_text(
        '{"at_s": 5, "weight_bp": 500, "readings": {"baseline": {"requests": 9, "errors": 1}}}\n\n'
        '{"readings": {"candidate": {"requests": 2, "errors": 0, "latency": '
        '{"edges_s": [0.1], "counts": [1, 1], "sum_s": 0.3}}}}\n'
    )
    recording = read_recording(str(path))
    first, second = recording.looks
    assert (first.at_s, first.weight_bp, first.readings[_B].errors) == (5.0, 500, 1)
    assert second.readings[_C].latency == Histogram((0.1,), (1, 1), 0.3)
    assert recording.has_weights


def test_totals_and_what_is_new_come_to_the_same(tmp_path: Path) -> None:
    totals, new = tmp_path / "totals.csv", tmp_path / "new.csv"
    totals.write_text(
        "at_s,side,weight_bp,requests,errors,le_0.1,le_inf,sum_s\n"
        "0,baseline,500,0,0,0,0,0\n0,candidate,500,0,0,0,0,0\n"
        "1,baseline,500,950,2,900,950,40\n1,candidate,500,50,1,40,50,3\n"
        "2,baseline,500,1900,4,1800,1900,80\n2,candidate,500,100,1,80,100,6\n"
    )
    new.write_text(
        "at_s,side,weight_bp,new_requests,new_errors,new_le_0.1,new_le_inf,new_sum_s\n"
        "1,baseline,500,950,2,900,950,40\n1,candidate,500,50,1,40,50,3\n"
        "2,baseline,500,950,2,900,950,40\n2,candidate,500,50,0,40,50,3\n"
    )
    one, other = read_recording(str(totals)), read_recording(str(new))
    assert [look.readings for look in one.looks[1:]] == [look.readings for look in other.looks[1:]]
    assert other.looks[0].readings[_C].requests == 0
    last = one.looks[-1].readings[_C]
    assert (last.requests, last.errors, last.latency) == (100, 1, Histogram((0.1,), (80, 20), 6.0))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "not json"),
        ("a.jsonl", '{"readings": {"nobody": {"requests": 1, "errors": 0}}}'),
        ("a.json", '{"baseline": [1, "two"], "candidate": [1]}'),
        ("a.json", '{"baseline": [], "candidate": []}'),
        ("a.json", '{"baseline": [-1], "candidate": [1]}'),
        ("a.csv", "time,value\n1,2\n"),
        ("a.csv", "side,requests,errors\nnobody,1,0\n"),
        ("a.csv", "side,requests,errors\nbaseline,many,0\n"),
        ("a.csv", "baseline,candidate\n1,nan\n"),
        ("a.csv", ""),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FinFlowError) as refused:
        read_recording(str(tmp_path / name))
    assert refused.value.kind.code == "recording_malformed"


async def test_a_recording_is_a_source_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "series.json"
    path.write_text('{"baseline": [1, 2], "candidate": [3]}')
    source = RecordedSource(str(path))
    seen = [{side: each.requests for side, each in (await source.read()).items()} for _ in range(3)]
    assert seen == [{_B: 0, _C: 0}, {_B: 1, _C: 1}, {_B: 2, _C: 1}]
    with pytest.raises(FinFlowError, match="source_unreachable"):
        await source.read()
    with pytest.raises(FinFlowError, match="source_unreachable"):
        await RecordedSource(str(tmp_path / "none")).read()


# --- the command


def _ran(*arguments: str) -> tuple[object, str]:
    done = CliRunner().invoke(judge, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.stdout


def _counts(path: Path, candidate_errors: int) -> str:
    path.write_text(f"side,new_requests,new_errors\nbaseline,19000,30\ncandidate,1000,{candidate_errors}\n")
    return str(path)


def test_the_command_answers_with_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    assert _ran(_counts(path, 2))[0] == 0
    code, screen = _ran(_counts(path, 40))
    assert code == 1
    assert "FAIL at look 2 of 2" in screen
    assert _ran(_counts(path, 2), "--min-requests", "5000")[0] == 1


def test_the_command_prints_json(tmp_path: Path) -> None:
    code, text = _ran(_counts(tmp_path / "counts.csv", 40), "--json")
    found = json.loads(text)
    assert (code, found["verdict"], found["judgements"][0]["gate"]) == (1, "fail", "errors")
    assert found["judgements"][0]["numbers"]["candidate_errors"] == 40


def test_the_command_says_which_direction_is_worse(tmp_path: Path) -> None:
    """The directional cases of the published suite: doubled, alike and halved, in each direction."""
    series, path = _CASES["series"], tmp_path / "case.json"
    pairs = {"high": ("usual", "doubled"), "alike": ("usual", "alike"), "low": ("slow", "alike")}
    expected = {"higher": (1, 0, 0), "lower": (0, 0, 1), "either": (1, 0, 1)}
    for worse, codes in expected.items():
        for (baseline, candidate), code in zip(pairs.values(), codes, strict=True):
            path.write_text(json.dumps({"baseline": series[baseline], "candidate": series[candidate]}))
            assert _ran(str(path), "--worse", worse)[0] == code, (worse, baseline, candidate)


def test_zeros_in_a_series_are_less_than_anything(tmp_path: Path) -> None:
    path = tmp_path / "errors.json"
    path.write_text(json.dumps({"baseline": [0] * 40, "candidate": [0, 1, 1, 2] * 10}))
    assert _ran(str(path))[0] == 1
    path.write_text(json.dumps({"baseline": [0] * 40, "candidate": [0] * 40}))
    assert _ran(str(path))[0] == 0


def test_the_command_takes_the_gates_of_a_spec(tmp_path: Path) -> None:
    gates = tmp_path / "spec.yaml"
    gates.write_text("gates:\n  rules:\n    - {kind: floor, max_error_ratio: 0.01}\n")
    path = _counts(tmp_path / "counts.csv", 2)
    assert _ran(path, "--gates", str(gates))[0] == 0
    assert _ran(_counts(tmp_path / "counts.csv", 11), "--gates", str(gates))[0] == 1
    gates.write_text("rules: [{kind: unheard}]\n")
    with pytest.raises(FinFlowError, match="gates_malformed"):
        _ran(path, "--gates", str(gates))
