"""`finflow rollout shadow`: a release's effects beside those of the baseline, on a clone that replays the
journal.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, database_url_option, json_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

if TYPE_CHECKING:
    from finflow.app.shadow import ShadowFolder
    from finflow.shadow.cases import Case
    from finflow.shadow.checksum import Verified
    from finflow.shadow.report import Report

_folder_option = click.option(
    "--folder", metavar="FOLDER", help="Where the shadow keeps its clone and its report [DATA/shadow]."
)
_SHOWN: Final = 20


@click.group
def shadow() -> None:
    """Judge a release by what the money did: replay the live journal on a clone, compare effects."""


@shadow.command
@data_option
@database_url_option
@_folder_option
@click.option(
    "--baseline", metavar="RELEASE", default="", help="The release that the shadow runs, for the report."
)
@click.option("--interpreter", metavar="PATH", help="The Python of the baseline release [this one].")
@click.option("--allow", metavar="FILE", help="Differences that are meant, with reason and last day (YAML).")
@click.option("--anew", is_flag=True, help="Make a fresh clone, though there is one to go on with.")
@click.option("--foreground", is_flag=True, help="Stay, until Ctrl-C, instead of leaving a process behind.")
@click.option("--dry-run", is_flag=True, help="Say what would be cloned where, and do nothing.")
@json_option
def start(
    folder: str | None, baseline: str, interpreter: str | None, allow: str | None, anew: bool,
    foreground: bool, dry_run: bool, as_json: bool, **flags: Any,
) -> int:  # fmt: skip
    """Clone the live database, and replay on the clone whatever is booked from then on."""
    from finflow.app import shadow as composed

    place, live_url = place_of(folder, flags), live_url_of(flags)
    if dry_run:
        found = {
            "folder": str(place.root),
            "database": composed.database_of(live_url),
            "goes_on": place.marked,
        }
        _print(found, as_json, f"Would shadow {found['database']} in {found['folder']}.")
        return EXIT_DONE
    click.echo("Cloning the live database ..." if anew or not place.marked else "Going on ...", err=True)
    options: dict[str, Any] = {"baseline": baseline, "anew": anew}
    options["allowances"] = Path(allow) if allow else None
    if interpreter:
        options["interpreter"] = interpreter
    began = time.monotonic()
    report = asyncio.run(composed.start(place, live_url, **options))
    took_s = round(time.monotonic() - began, 1)
    if foreground:
        return _stay(place)
    _print({"folder": str(place.root), "pid": report.pid, "started_s": took_s}, as_json,
           f"A shadow runs in {place.root} (process {report.pid}, ready after {took_s} s).")  # fmt: skip
    return EXIT_DONE


def _stay(place: "ShadowFolder") -> int:
    from finflow.app import shadow as composed

    try:
        while (runner := place.runner()) is not None:
            report = _read(place)
            if sys.stderr.isatty():
                click.echo(f"\r{_line(report)}\x1b[K", err=True, nl=False)
            del runner
            time.sleep(1)
    except KeyboardInterrupt:
        asyncio.run(composed.stop(place, keep_clone=True))
        return EXIT_DONE
    raise FinFlowError("shadow_not_running", f"it ended; its log is {place.log}")


@shadow.command
@data_option
@_folder_option
@click.option("--cases", "with_cases", is_flag=True, help="List the cases too.")
@json_option
def report(folder: str | None, with_cases: bool, as_json: bool, **flags: Any) -> int:
    """Show what was compared, what differs, and how far behind it is; exit 1 where anything is wrong."""
    from finflow.shadow.report import read_cases

    place = place_of(folder, flags)
    found = _read(place)
    cases = read_cases(place.root) if with_cases else []
    running = place.runner() is not None
    facts = _facts(found, running) | {"wrong_by_release": _by_release(read_cases(place.root))}
    facts |= {"cases": cases} if with_cases else {}
    text = _report(found, running) + ("\n\n" + _cases(cases) if cases else "")
    _print(facts, as_json, text)
    return EXIT_NO if found.wrong else EXIT_DONE


@shadow.command
@click.argument("case_no", metavar="CASE", type=click.IntRange(min=1))
@data_option
@_folder_option
@json_option
def explain(case_no: int, folder: str | None, as_json: bool, **flags: Any) -> int:
    """Show both effects of a case side by side, and where to look first."""
    from finflow.shadow.report import read_cases

    place = place_of(folder, flags)
    case = next((case for case in read_cases(place.root) if case.case_no == case_no), None)
    if case is None:
        raise FinFlowError("case_unknown", f"no case {case_no} in {place.root}")
    _print({"rule": case.rule, "currencies": case.currencies, "case": case}, as_json, _explained(case))
    return EXIT_DONE


@shadow.command
@data_option
@database_url_option
@_folder_option
@click.option(
    "--within-s", type=click.FloatRange(1, 3600), default=120.0, show_default=True, help="To catch up."
)
@json_option
def verify(folder: str | None, within_s: float, as_json: bool, **flags: Any) -> int:
    """Compare both books as a whole by checksums; exit 1 unless every account is worth the same on both."""
    from finflow.shadow import checksum

    place, live_url = place_of(folder, flags), live_url_of(flags)
    if place.runner() is None:
        raise FinFlowError("shadow_not_running", f"nothing replays in {place.root}")
    found = asyncio.run(checksum.verify(live_url, place.clone_url(), within_s))
    facts = {"equal": found.equal, "unexplained": found.unexplained, "accounts_apart": found.apart}
    _print(facts | {"checked": found}, as_json, _verified(found))
    return EXIT_DONE if found.equal else EXIT_NO


@shadow.command
@click.argument("file", metavar="FILE")
@click.option("--candidate", metavar="URL", required=True, help="A process of the candidate.")
@click.option(
    "--baseline", "baselines", metavar="URL", multiple=True, required=True, help="Twice: two of the baseline."
)
@click.option(
    "--sample", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="Reads at most."
)
@json_option
def reads(file: str, candidate: str, baselines: tuple[str, ...], sample: int, as_json: bool) -> int:
    """Compare recorded GETs of FILE (a path or a JSON object a line); FINFLOW_TOKEN is sent along."""
    from finflow.shadow.reads import compare_reads, read_file

    if len(baselines) != 2:
        raise click.UsageError("Give --baseline twice: what the two do not agree on is noise.")
    recorded = read_file(Path(file), sample)
    token = os.environ.get("FINFLOW_TOKEN")
    found = asyncio.run(compare_reads(candidate, *baselines, recorded, token))
    lines = [f"{each.path}: {', '.join(each.places)}" for each in found.different[:_SHOWN]]
    head = f"{found.compared:,} reads compared, {found.noisy:,} noisy, {len(found.different):,} different."
    _print(found, as_json, "\n".join([head, *lines]))
    return EXIT_NO if found.different or not found.compared else EXIT_DONE


@shadow.command
@data_option
@_folder_option
@click.option("--keep-clone", is_flag=True, help="Keep the clone, to go on with later.")
@json_option
def stop(folder: str | None, keep_clone: bool, as_json: bool, **flags: Any) -> int:
    """End the shadow and remove its clone; report and cases stay."""
    from finflow.app import shadow as composed

    place = place_of(folder, flags)
    last = asyncio.run(composed.stop(place, keep_clone=keep_clone))
    words = "The shadow is stopped" + ("." if keep_clone else ", its clone removed.")
    _print({"folder": str(place.root)} | (_facts(last, False) if last else {}), as_json, words)
    return EXIT_DONE


# --- where ----------------------------------------------------------------------------------------------


def place_of(folder: str | None, flags: dict[str, Any]) -> "ShadowFolder":
    """The folder that is named, else the data folder's."""
    from finflow.app import Config
    from finflow.app.shadow import ShadowFolder

    return ShadowFolder(Path(folder) if folder else Config.load({"data": flags["data"]}).data / "shadow")


def live_url_of(flags: dict[str, Any]) -> str:
    """The live database: the one that is named, else that of the FinFlow which runs on the data folder."""
    from finflow.app import Config
    from finflow.stack.folder import DataFolder

    config = Config.load(flags)
    state = DataFolder(config.data).read_state()
    if config.database_url is not None:
        return config.database_url
    if state is None or state.postgres is None:
        raise FinFlowError("stack_not_running", f"Nothing runs on {config.data}, and no database is named.")
    return state.database_url


def _read(place: "ShadowFolder") -> "Report":
    from finflow.shadow.report import read_report

    found = read_report(place.root)
    if found is None:
        raise FinFlowError("shadow_not_running", f"there is no report in {place.root}")
    return found


def _print(facts: Any, as_json: bool, text: str) -> None:
    if as_json:
        echo_json(facts)
    else:
        click.echo(text)


# --- screens ---------------------------------------------------------------------------------------------


def _facts(found: "Report", running: bool) -> dict[str, Any]:
    return {
        "running": running,
        "state": found.state,
        "baseline": found.baseline,
        "compared": found.compared,
        "wrong": found.wrong,
        "bound": found.bound,
        "outcomes": found.outcomes,
        "lag_commands": found.lag_commands,
        "lag_s": found.lag_s,
        "commands_per_s": found.commands_per_s,
        "ledgers": found.ledgers,
        "last_error": found.last_error,
    }


def _by_release(cases: "list[Case]") -> dict[str, int]:
    """How many cases each release has made, where the journal says which wrote the row."""
    from finflow.shadow.model import WRONG

    counts: dict[str, int] = {}
    for case in cases:
        if case.outcome in WRONG:
            name = case.release or "unknown"
            counts[name] = counts.get(name, 0) + 1
    return counts


def _line(found: "Report") -> str:
    bound = "" if found.bound is None else f", below {found.bound:.4%} wrong"
    return (
        f"{found.compared:,} compared, {found.wrong:,} wrong{bound}; "
        f"{found.lag_commands:,} behind ({found.lag_s:.1f} s), {found.commands_per_s:,.0f} a second"
    )


def _report(found: "Report", running: bool) -> str:
    from finflow.cli import screens
    from finflow.shadow.model import Outcome

    state = found.state if running or found.state != "running" else "dead"
    head = [f"The shadow is {state}: {_line(found)}."]
    if found.bound is not None:
        words = (
            f"0 wrong of n = {found.compared:,}: with 95 % confidence fewer than 3/n = {found.bound:.4%} are."
        )
        head.append(words)
    rows = [(outcome.value, f"{found.outcomes.get(outcome, 0):,}") for outcome in Outcome]
    if found.last_error:
        head.append(f"Last error: {found.last_error}")
    return (
        "\n".join(head) + "\n\n" + screens.table(("OUTCOME", "COMPARISONS"), rows, frozenset({"COMPARISONS"}))
    )


def _cases(cases: "list[Case]") -> str:
    from finflow.cli import screens

    head = ("CASE", "LEDGER", "ABOUT", "NUMBER", "OUTCOME", "RELEASE", "FOLLOWS", "WHERE")
    rows = [
        (str(c.case_no), str(c.ledger_no), f"{c.subject} {c.kind}" if c.kind != c.subject else c.kind,
         str(c.number), c.outcome.value, c.release or "", str(c.cause or ""),
         ", ".join(d.place for d in c.differences[:4]))
        for c in cases
    ]  # fmt: skip
    return screens.table(head, rows, frozenset({"CASE", "LEDGER", "NUMBER"}))


def _explained(case: "Case") -> str:
    from finflow.cli import screens

    head = [
        f"Case {case.case_no}: {case.outcome.value} "
        f"({case.kind}, {case.subject} {case.number}, ledger {case.ledger_no})",
        f"booked {case.recorded_at.isoformat()}, found {case.found_at.isoformat()}"
        + (f", by release {case.release}" if case.release else ""),
        f"look first: {case.rule}"
        + (f"; currencies {', '.join(case.currencies)}" if case.currencies else ""),
    ]
    if case.cause:
        head.append(f"It follows from case {case.cause}.")
    if case.allowance:
        head.append(f"Allowed by {case.allowance}.")
    rows = [(d.place, _value(d.live), _value(d.shadow)) for d in case.differences]
    return "\n".join(head) + "\n\n" + screens.table(("WHERE", "LIVE", "SHADOW"), rows, frozenset())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items())
    return "-" if value is None else str(value)


def _verified(found: "Verified") -> str:
    from finflow.cli import screens

    head = (
        f"{found.ledgers:,} ledgers, {found.accounts:,} accounts, {found.entries:,} entries, "
        f"{found.commands:,} commands: "
    )
    if not found.findings:
        return head + "equal on both sides."
    words = f"{found.apart:,} accounts are apart, {found.unexplained:,} findings have no case."
    rows = [
        (f"{f.kind} {f.number}", str(f.ledger_no), f.currency or "", _value(f.live), _value(f.shadow),
         str(f.case_no or "none"))
        for f in found.findings[:_SHOWN]
    ]  # fmt: skip
    table = screens.table(("WHAT", "LEDGER", "CURRENCY", "LIVE", "SHADOW", "CASE"), rows, frozenset())
    return f"{head}{words}\n\n{table}"
