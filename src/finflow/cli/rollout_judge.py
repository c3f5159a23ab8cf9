"""`finflow rollout judge`: recorded numbers of a canary, judged by the gates of a rollout. No server."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import echo_json, screens
from finflow.cli.options import json_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

if TYPE_CHECKING:
    from finflow.rollout.gates_spec import Gates
    from finflow.rollout.offline import Decision
    from finflow.rollout.sources.recorded import Recording

_SHOWN = ("evidence", "needed", "slower_percent", "at_least_percent", "observed_share", "latency_ms_p99")


@click.command("judge")
@click.argument("file", metavar="FILE")
@click.option("--gates", "gates_file", metavar="FILE", help="Gates as in a spec, in YAML [the default ones].")
@click.option(
    "--alpha", type=click.FloatRange(0, 0.2, min_open=True), default=0.01, show_default=True,
    help="How often a good candidate may be accused; without --gates.",
)  # fmt: skip
@click.option(
    "--worse", type=click.Choice(["higher", "lower", "either"]), default="higher", show_default=True,
    help="Of series: which values are worse.",
)  # fmt: skip
@click.option("--min-requests", type=click.IntRange(min=1), help="Of either side; without --gates.")
@json_option
def judge(
    file: str, gates_file: str | None, alpha: float, worse: str, min_requests: int | None, as_json: bool
) -> int:
    """Judge recorded numbers of a baseline and a candidate: exit 0 for pass, 1 for anything else.

    \b
    FILE is one of
      looks    JSON lines: {"at_s": 1, "weight_bp": 500, "readings":
               {"baseline": {"requests": 9, "errors": 0}, "candidate": {...}}}
      series   JSON: {"baseline": [0.1, ...], "candidate": [0.2, ...]}: durations
      totals   CSV: at_s,side,requests,errors[,weight_bp][,le_0.1,...,le_inf,sum_s]
               or new_requests,new_errors,...: what came since the row before
      series   CSV: baseline,candidate
    """
    from finflow.rollout.offline import fitting
    from finflow.rollout.sources.recorded import read_recording

    recording = read_recording(file)
    spec = _gates(gates_file) if gates_file else fitting(recording, alpha=alpha, min_requests=min_requests)
    decision = _decision(recording, spec, worse)
    if as_json:
        echo_json(decision)
    else:
        click.echo(_screen(decision))
    return EXIT_DONE if decision.verdict == "pass" else EXIT_NO


def _decision(recording: "Recording", spec: "Gates", worse: str) -> "Decision":
    from finflow.rollout.offline import decide, decide_either
    from finflow.rollout.sources.recorded import inverted

    if worse != "higher" and not recording.is_series:
        raise click.UsageError("--worse is for series; errors are always worse.")
    if worse == "either":
        return decide_either(recording, spec)
    return decide(recording if worse == "higher" else inverted(recording), spec)


def _gates(file: str) -> "Gates":
    import msgspec
    import yaml

    from finflow.rollout.gates_spec import Gates

    try:
        found: Any = yaml.safe_load(Path(file).read_text())
        # A whole spec will do as well: its section is read.
        found = found.get("gates", found) if isinstance(found, dict) else found
        return msgspec.convert(found, Gates)
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{file}: {error.strerror}") from error
    except (msgspec.ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise FinFlowError("gates_malformed", f"{file}: {error}") from error


def _screen(decision: "Decision") -> str:
    rows = [
        (each.gate, each.verdict.upper(), _numbers(dict(each.numbers)), each.words)
        for each in decision.judgements
    ]
    last = f"{decision.verdict.upper()} at look {decision.look} of {decision.looks} ({decision.at_s:g} s)."
    return f"{screens.table(('GATE', 'VERDICT', 'NUMBERS', 'WORDS'), rows)}\n\n{last}"


def _numbers(numbers: dict[str, Any]) -> str:
    return " ".join(f"{name}={numbers[name]}" for name in _SHOWN if name in numbers) or "-"
