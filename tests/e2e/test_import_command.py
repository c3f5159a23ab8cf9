"""`finflow import` as a user runs it: its own stack, a running one, broken lines, exit codes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("FINFLOW_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
BERKA = SHARED / "berka" / "trans.asc"
GENERATED = str(REPOSITORY / "examples" / "generated.toml")


def finflow(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "finflow", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def history(tmp_path: Path) -> Path:
    file = tmp_path / "history.csv"
    made = finflow("generate", "--seed", "2", "--accounts", "8", "--days", "20", "--out", str(file))
    assert made.returncode == 0, made.stderr
    return file


def test_import_starts_what_it_needs_and_a_second_run_posts_nothing(
    history: Path, short_folder: Path
) -> None:
    arguments = ("import", str(history), "--mapping", GENERATED, "--verify", "--json")
    data = ("--data", str(short_folder / "cli-import"))
    first, second = finflow(*arguments, *data), finflow(*arguments, *data)
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    rows = len(history.read_text().splitlines()) - 1
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    assert (one["rows"], one["posted"], one["balances_checked"], one["balances_equal"]) == (rows,) * 4
    assert (two["posted"], two["replayed"], two["balances_equal"]) == (0, rows, rows)
    assert "\x1b" not in first.stdout + first.stderr


def test_broken_lines_end_with_1_and_stand_in_the_errors_file(
    history: Path, short_folder: Path, tmp_path: Path
) -> None:
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join([*lines, "only,three,columns\n"]))
    errors = tmp_path / "errors.ndjson"
    done = finflow(
        "import", str(history), "--mapping", GENERATED, "--errors", str(errors),
        "--data", str(short_folder / "cli-broken"),
    )  # fmt: skip
    number = len(lines) + 1
    assert done.returncode == 1
    assert f"line {number}: broken: 3 columns instead of 9" in done.stderr
    assert f"{len(lines) - 1:,} posted" in done.stdout
    (fault,) = map(json.loads, errors.read_text().splitlines())
    assert fault == {"line": number, "code": "broken", "reason": "3 columns instead of 9"}


def test_what_cannot_start_says_why_with_its_exit_code(history: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "wrong.toml"
    mapping.write_text('name = "x"\nname = "y"\n')
    wrong = finflow("import", str(history), "--mapping", str(mapping))
    missing = finflow("import", str(tmp_path / "none.csv"), "--mapping", GENERATED)
    size = finflow("import", str(history), "--mapping", GENERATED, "--batch-size", "10001")
    assert [wrong.returncode, missing.returncode, size.returncode] == [2, 2, 1]
    assert "line 2" in wrong.stderr
    assert "none.csv" in missing.stderr
    assert "hint:" in size.stderr


def test_an_address_where_nobody_listens_is_told_at_once(history: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = finflow("import", str(history), "--mapping", GENERATED, "--url", nobody)
    assert done.returncode == 3
    assert nobody in done.stderr


@pytest.mark.skipif(not BERKA.is_file(), reason="no shared bank history: set FINFLOW_SHARED_DATA")
def test_a_real_bank_s_history_is_equal_in_every_balance(short_folder: Path) -> None:
    done = finflow(
        "import", str(BERKA), "--mapping", str(REPOSITORY / "examples" / "berka.toml"), "--verify", "--json",
        "--data", str(short_folder / "cli-berka"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    with BERKA.open("rb") as file:
        rows = sum(1 for _ in file) - 1
    assert (report["rows"], report["posted"], report["refused"]) == (rows, rows, 0)
    assert (report["balances_checked"], report["balances_equal"]) == (rows, rows)
    assert 0.03 < report["rounding_legs"] / rows < 0.055
