"""`finflow rollout impact` as a command: totals, exports, refusals. Composition of checks from a spec."""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest
from click.testing import CliRunner, Result

from finflow.app.checks import Surroundings, checks
from finflow.cli.rollout_impact import COLUMNS, _harmless, impact
from finflow.kernel.errors import FinFlowError
from finflow.rollout import checks_spec as spec
from finflow.rollout.ports import Approval
from finflow.rollout.verdicts import Judgement, Verdict
from oracles.service import desk, transfer

SPAN = ("--since", "2026-01-01T00:00:00Z", "--until", "2027-01-01T00:00:00Z")


def run(*arguments: str, url: str = "", folder: Path | None = None) -> Result:
    where = [*(["--database-url", url] if url else []), *(["--data", str(folder)] if folder else [])]
    return CliRunner().invoke(impact, [*arguments, *where], standalone_mode=False)


@pytest.fixture
async def touched(database_url: str) -> str:
    async with desk(database_url, release="2.0") as one:
        [house] = await one.open()
        [ada] = await one.open(kind="liability", external_reference="=ada")
        [bob] = await one.open(kind="liability", external_reference="bob, the builder")
        await one.do(transfer(ada, house, "1.25"), transfer(bob, ada, "0.5"))
    return database_url


async def off_loop(*arguments: str, **where: Any) -> Result:
    """The command runs an event loop of its own, so it needs a thread of its own."""
    return await asyncio.to_thread(run, *arguments, **where)


async def test_totals_in_words_and_as_json(touched: str) -> None:
    told = await off_loop("2.0", *SPAN, url=touched)
    assert told.return_value == 0
    assert "customers     2\ntransactions  2\nmoney         1.75 SGD\n" in told.stdout
    told = await off_loop("2.0", *SPAN, "--json", url=touched)
    assert json.loads(told.stdout) == {
        "release": "2.0", "since": SPAN[1], "until": SPAN[3],
        "customers": 2, "transactions": 2, "money": {"SGD": "1.75"},
    }  # fmt: skip


async def test_exports(touched: str, tmp_path: Path) -> None:
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    for path in (lines, table):
        told = await off_loop("2.0", *SPAN, "--export", str(path), "--json", url=touched)
        assert json.loads(told.stdout)["exported"] == 2
        assert path.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["money"] for row in rows] == [{"SGD": "1.25"}, {"SGD": "0.50"}]
    assert [row["customers"] for row in rows] == [["=ada"], ["=ada", "bob, the builder"]]
    with table.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    # A spreadsheet would run a field that begins with an equals sign.
    assert [row["customers"] for row in read] == ["'=ada", "'=ada bob, the builder"]
    assert [row["transaction_id"] for row in read] == [row["transaction_id"] for row in rows]
    assert set(tmp_path.iterdir()) == {lines, table}


async def test_an_export_that_fails_leaves_nothing(touched: str, tmp_path: Path) -> None:
    told = await off_loop("2.0", *SPAN, "--export", str(tmp_path / "none" / "a.csv"), url=touched)
    assert isinstance(told.exception, FinFlowError)
    assert told.exception.kind.code == "export_failed"
    told = await off_loop("2.0", *SPAN, "--export", str(tmp_path / "a.txt"), url=touched)
    assert "its name ends with .jsonl or .csv" in str(told.exception)
    assert list(tmp_path.iterdir()) == []


async def test_a_database_without_books_is_named_as_such(database_url: str) -> None:
    parts = urlsplit(database_url)
    told = await off_loop("2.0", *SPAN, url=urlunsplit(parts._replace(path="/template1")))
    assert isinstance(told.exception, FinFlowError)
    assert told.exception.kind.code == "schema_absent"


def test_a_moment_that_is_none_starts_nothing(tmp_path: Path) -> None:
    told = run("2.0", "--since", "yesterday", folder=tmp_path / "data")
    assert isinstance(told.exception, FinFlowError)
    assert told.exception.kind.code == "moment_malformed"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\tx"])
def test_no_field_is_a_formula(text: str) -> None:
    assert _harmless(text) == "'" + text
    assert _harmless("a" + text) == "a" + text


class Nobody:
    async def find(self, digest: str) -> Approval | None:
        return None


class Smoke:
    async def judge(self) -> Judgement:
        return Judgement("smoke", Verdict.PASS, {}, "12 of 12")


def around(folder: Path, **environ: str) -> Surroundings:
    return Surroundings(folder, "payments", "2.0", Nobody(), environ)


SECTION: list[Any] = [
    {"kind": "scan", "report": "trivy.json", "artifact": "payments:2.0"},
    {"kind": "manifests", "before": "old", "after": "new"},
    {"kind": "freeze", "windows": [{"from": "2026-12-24T12:00:00Z", "until": "2027-01-02T08:00:00Z"}]},
    {"kind": "command", "command": ["true"], "name": "own"},
    {"kind": "invariants"},
]


async def test_a_section_becomes_checks_in_its_order(database_url: str, tmp_path: Path) -> None:
    specs = msgspec.convert(SECTION, list[spec.CheckSpec])
    made = checks(specs, around(tmp_path, FINFLOW_DATABASE_URL=database_url, PATH="/usr/bin:/bin"))
    judgements = [await check.judge() for check in made]
    assert [each.gate for each in judgements] == ["scan", "manifests", "freeze", "own", "invariants"]
    assert [each.verdict for each in judgements][:2] == [Verdict.FAIL, Verdict.ERROR]
    assert [each.verdict for each in judgements][3:] == [Verdict.PASS, Verdict.INCONCLUSIVE]


async def test_checks_of_other_parts_are_made_by_them(tmp_path: Path) -> None:
    specs = msgspec.convert([{"kind": "smoke", "spec": "bank.yaml"}], list[spec.CheckSpec])
    with pytest.raises(FinFlowError, match="nothing here that makes a smoke check"):
        checks(specs, around(tmp_path))
    [made] = checks(specs, around(tmp_path), {spec.SmokeSpec: lambda each, around: Smoke()})
    assert (await made.judge()).words == "12 of 12"
    with pytest.raises(FinFlowError, match="FINFLOW_DATABASE_URL is not set"):
        checks([spec.InvariantsSpec()], around(tmp_path))


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "scan", "report": "a", "artifact": "b", "max_age_s": 0},
        {"kind": "scan", "report": "a"},
        {**SECTION[0], "ignore": [{"id": "CVE-1", "reason": "no", "until": "2026-01-01"}]},
        {**SECTION[0], "ignore": [{"id": "CVE-1", "reason": "unreachable code"}]},
        {"kind": "manifests", "before": "--output=x", "after": "b", "repository": "."},
        {"kind": "manifests", "before": "a", "after": "b", "repository": ".", "folder": "../.."},
        {"kind": "command", "command": []},
        {"kind": "freeze", "windows": []},
        {"kind": "guess"},
        {"command": ["true"]},
    ],
)
def test_sections_that_mean_nothing_are_refused(section: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(section, spec.CheckSpec)


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "webhook"},
        {"kind": "webhook", "url": "http://a", "url_variable": "A"},
        {"kind": "webhook", "url": "ftp://a"},
        {"kind": "webhook", "url": "http://user:password@a"},
        {"kind": "slack", "url": "https://hooks.example/secret"},
        {"kind": "email", "host": "mail.example", "sender": "a@b", "to": []},
        {"kind": "email", "host": "mail.example", "sender": "a@b", "to": ["c@d"], "tls": "none"},
        {"kind": "email", "host": "mail.example", "sender": "a@b\nBcc: e@f", "to": ["c@d"]},
        {"kind": "email", "host": "mail.example", "sender": "a@b", "to": ["c@d"], "user_variable": "U"},
        {"kind": "pigeon"},
    ],
)
def test_notices_that_mean_nothing_are_refused(section: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(section, spec.NotifySpec)
