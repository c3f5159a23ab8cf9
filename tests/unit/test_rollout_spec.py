"""A rollout's specification: what is read, and every fault with the line and column that it stands at."""

from pathlib import Path

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout.spec import loaded, moment, parsed, processes_for, schema
from finflow.rollout.yaml_lines import Faulty, read

GOOD = """\
service: shop
ingress: {kind: caddy, port: 8080}
baseline:
  release: "1.0"
  fleet: {kind: endpoints, endpoints: ["127.0.0.1:9001", "127.0.0.1:9002"]}
candidate:
  release: "1.1"
  committed_at: 2026-06-01T10:00:00Z
  fleet:
    kind: command
    command: [python3, app.py]
    processes: 4
steps:
  - {weight_percent: 5, bake_s: 60}
  - {weight_percent: 12.5, bake_s: 60, processes: 2}
  - weight_percent: 100
    bake_s: 60
metrics: {kind: traffic}
"""


def faults(text: str) -> list[tuple[int, int, str]]:
    found, wrong = parsed(text.encode())
    assert found is None
    return [(each.line, each.column, each.words) for each in sorted(wrong)]


def test_a_good_one_is_read() -> None:
    found, wrong = parsed(GOOD.encode())
    assert wrong == []
    assert found is not None
    assert [step.weight_bp for step in found.steps] == [500, 1250, 10_000]
    assert [processes_for(found, step) for step in range(3)] == [1, 2, 4]
    assert found.candidate.committed_at == "2026-06-01T10:00:00Z"


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "words"),
    [
        ("service: shop", "service: Shop", 1, 1, "Expected `str` matching regex"),
        ("service: shop\n", "", 1, 1, "the field `service` is missing"),
        ("metrics:", "metric:", 18, 1, "unknown field `metric`"),
        ("port: 8080", "port: eighty", 2, 24, "Expected `int`, got `str` (ingress.port)"),
        ("kind: caddy", "kind: nginx", 2, 11, "Invalid value 'nginx' (ingress.kind)"),
        ("processes: 4", "processes: 0", 12, 5, "Expected `int` >= 1 (candidate.fleet.processes)"),
        ("  release: \"1.1\"\n", "", 6, 1, "here is missing the required field `release` (candidate)"),
        ("weight_percent: 5, bake_s: 60", "weight_percent: 5, bake: 60", 14, 25, "unknown field `bake`"),
        ("weight_percent: 5, bake_s: 60", "weight_percent: 5, bake_s: 0", 14, 25, "Expected `float` > 0"),
        ("weight_percent: 12.5", "weight_percent: 5", 15, 6, "weights grow from step to step, and 5 %"),
        ("weight_percent: 12.5", "weight_percent: 12.505", 15, 6, "a weight has at most two decimals"),
        ("weight_percent: 100", "weight_percent: 99", 16, 5, "the last step sends everybody"),
        ("weight_percent: 100\n", "weight_percent: 100\n    processes: 1\n", 17, 5, "step 3 has fewer"),
        ('release: "1.1"', 'release: "1.0"', 7, 3, "1.0 is the baseline, too"),
        ("2026-06-01T10:00:00Z", "2026-06-01", 8, 3, "write it like 2026-06-01T16:59:00Z"),
        ('127.0.0.1:9001', "127.0.0.1", 5, 3, "does not look like HOST:PORT"),
        ("    bake_s: 60\n", "    bake_s: 60\n    bake_s: 60\n", 18, 5, "stands twice"),
        ("metrics: {kind: traffic}", "metrics: {kind: traffic", 19, 1, "expected ',' or '}'"),
        ("release: \"1.0\"", "release: !!python/object:os.system x", 4, 12, "is not allowed here"),
        ("release: \"1.0\"", "release: 1.0", 4, 3, "Expected `str`, got `float` (baseline.release)"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(old: str, new: str, line: int, column: int, words: str) -> None:
    assert old in GOOD
    found = faults(GOOD.replace(old, new, 1))
    assert (line, column) in [(each[0], each[1]) for each in found], found
    assert any(words in each[2] for each in found), found


def test_one_run_names_the_faults_of_every_section_and_step() -> None:
    text = (
        GOOD.replace("8080", "x")
        .replace("weight_percent: 5,", "weight: 5,")
        .replace("bake_s: 60, p", "bake_s: a, p")
    )
    assert [line for line, _, _ in faults(text)] == [2, 14, 15]


def test_the_error_has_a_line_for_each_fault(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD.replace("8080", "x"))
    with pytest.raises(FinFlowError) as caught:
        loaded(path)
    assert caught.value.kind.code == "spec_malformed"
    assert caught.value.detail == f"{path}:2:24: Expected `int`, got `str` (ingress.port)"


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "empty"),
        (b"a: 1\n\xff", 2, "UTF-8"),
        (b"[" * 5000, 1, "nested too deep"),
        (b"a: &a [*a]", 1, "too many values"),
        (b"#" * 300_000, 1, "larger than 256 KiB"),
        (b"a: 1\n---\nb: 2\n", 2, "single document"),
        (b"? [a]\n: 1\n", 1, "a key must be a plain word"),
        (b"a: " + b"9" * 5000, 1, "not a number that fits"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(data: bytes, line: int, words: str) -> None:
    with pytest.raises(Faulty, match=words) as caught:
        read(data)
    assert caught.value.fault.line == line


def test_aliases_of_aliases_stay_small() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(Faulty, match="too many values"):
        read("\n".join(lines).encode())


def test_words_that_yaml_1_1_takes_for_something_else_stay_words() -> None:
    text = b"a: [on, no, 12:30, 2026-06-01, 0o7, .inf, 1_000, true, ~, -1.5e3]"
    assert read(text).value["a"] == [
        "on",
        "no",
        "12:30",
        "2026-06-01",
        "0o7",
        ".inf",
        1000,
        True,
        None,
        -1500.0,
    ]


def test_a_moment_has_a_time_zone() -> None:
    assert moment("2026-06-01T10:00:00+08:00") is not None
    assert moment("2026-06-01T10:00:00") is None


def test_the_schema_names_every_section() -> None:
    text = str(schema())
    for name in (
        "weight_percent",
        "bake_s",
        "on_drift",
        "CaddySpec",
        "CommandFleet",
        "ErrorsGate",
        "SlackSpec",
    ):
        assert name in text
