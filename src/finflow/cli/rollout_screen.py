"""The screen of `finflow rollout show`: where a rollout stands, from the whole to its parts. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from finflow.rollout.ports import Impact
from finflow.rollout.spec import RolloutSpec, processes_for
from finflow.rollout.state import Phase, State
from finflow.rollout.verdicts import Judgement, Side, Verdict

# A line is pieces of text, each with a style that a terminal may show and plain text leaves out.
Line = list[tuple[str, str]]

_WIDTH: Final = 100
_BAR: Final = 40
_MARKS: Final = {
    Verdict.PASS: ("✔", "green"),
    Verdict.INCONCLUSIVE: ("?", "yellow"),
    Verdict.ERROR: ("!", "magenta"),
    Verdict.FAIL: ("✖", "red bold"),
}
_PHASES: Final = {
    Phase.PROMOTED: ("✔", "green bold"),
    Phase.ABORTED: ("✖", "red bold"),
    Phase.ABORTING: ("✖", "red bold"),
}


def screen(spec: RolloutSpec, state: State, controller: int | None) -> list[Line]:
    """Everything, from the whole to its parts."""
    lines = [*_header(spec, state, controller), [], *_ladder(spec, state), [], *_traffic(state)]
    for section in (_gates(state), _fleets(state), _decisions(state)):
        if section:
            lines += [[], *section]
    return [*lines, [], _hint(state, controller)]


def plain(lines: Iterable[Line]) -> str:
    """The lines as text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def _title(text: str) -> Line:
    return [(text, "bold")]


def _fact(name: str, value: str, style: str = "") -> Line:
    return [(f"{name + ':':<13}", "dim"), (value, style)]


def _percent(weight_bp: int) -> str:
    return f"{weight_bp / 100:g} %"


# --- header -----------------------------------------------------------------------------------------------


def _header(spec: RolloutSpec, state: State, controller: int | None) -> list[Line]:
    mark, style = _PHASES.get(state.phase, ("◉", "cyan bold"))
    if state.paused or state.awaiting:
        mark, style = "‖", "yellow bold"
    commit = f" (commit {state.commit[:12]})" if state.commit else ""
    found = [
        [(state.service, "bold"), (f"  {state.rollout_id}", "dim")],
        _fact("Status", f"{mark} {_status(spec, state)}", style),
        _fact("Candidate", state.candidate + commit),
        _fact("Baseline", state.baseline),
        _fact("Started", f"{_second(state.started_at)} by {state.started_by}"),
    ]
    if state.ended:
        return [*found, _fact("Ended", _second(state.ended_at))]
    if controller is None:
        nobody = "none: the split stays as it is, and nothing is judged"
        return [*found, _fact("Controller", nobody, "red bold")]
    return [*found, _fact("Controller", f"process {controller}, epoch {state.epoch}")]


def _status(spec: RolloutSpec, state: State) -> str:
    if state.ended or state.phase is Phase.ABORTING:
        return f"{state.phase}: {state.reason}"
    step = f"step {state.step + 1} of {len(spec.steps)}"
    if state.paused:
        return f"paused at {step}: {state.paused}"
    return f"waits for approval of {step}" if state.awaiting else f"{state.phase}, {step}"


def _second(moment: str) -> str:
    """To the second: the log has the rest."""
    return moment[:19].replace("T", " ") + "Z" if moment else "-"


# --- the ladder -------------------------------------------------------------------------------------------


def _ladder(spec: RolloutSpec, state: State) -> list[Line]:
    return [_title("STEPS"), *(_rung(spec, state, index) for index in range(len(spec.steps)))]


def _rung(spec: RolloutSpec, state: State, index: int) -> Line:
    mark, style = _rung_mark(state, index)
    rung = spec.steps[index]
    processes = _processes(processes_for(spec, index))
    head = f"  {mark} {index + 1:>2}  {_percent(rung.weight_bp):>7}  {processes:<14}"
    return [(head, style), (_rung_words(spec, state, index), style)]


def _rung_mark(state: State, index: int) -> tuple[str, str]:
    weight_gone = state.phase in (Phase.ABORTING, Phase.ABORTED)
    if state.phase in (Phase.PROMOTING, Phase.PROMOTED) or index < state.step:
        return "✔", "dim" if weight_gone else "green"
    if index > state.step:
        return "·", "dim"
    return ("✖", "red") if weight_gone else ("◉", "cyan")


def _processes(count: int) -> str:
    return f"{count} process" + ("es" if count != 1 else "")


def _rung_words(spec: RolloutSpec, state: State, index: int) -> str:
    rung = spec.steps[index]
    conditions = [f"bake {rung.bake_s:g} s"]
    if rung.minimum_requests:
        conditions.append(f"{rung.minimum_requests:,} requests")
    if rung.approval:
        conditions.append("approval")
    if index == state.step and state.phase is Phase.BAKING:
        done = min(1.0, state.baked_s / rung.bake_s)
        return f"{_bar(done, 20)}  {min(state.baked_s, rung.bake_s):.0f} of {', '.join(conditions)[5:]}"
    return ", ".join(conditions)


def _bar(share: float, width: int) -> str:
    full = round(share * width)
    return "█" * full + "░" * (width - full)


# --- traffic, gates, fleets -------------------------------------------------------------------------------


def _traffic(state: State) -> list[Line]:
    lines = [_title("TRAFFIC")]
    if "swap" in state.done:
        words = f"  everybody  {state.candidate:<14.14} {_bar(1.0, _BAR)} {_percent(10_000):>8}"
        return [*lines, [(words, "green")]]
    candidate = state.weight_bp if state.drift_bp is None else state.drift_bp
    for side, name, weight in (
        (Side.BASELINE, state.baseline, 10_000 - candidate),
        (Side.CANDIDATE, state.candidate, candidate),
    ):
        head = f"  {side:<10} {name:<14.14} {_bar(weight / 10_000, _BAR)} {_percent(weight):>8}"
        lines.append([(head, "blue" if side is Side.BASELINE else "cyan"), (_counted(state, side), "")])
    if state.drift_bp is not None:
        lines.append([(f"  set by somebody else; intended are {_percent(state.weight_bp)}", "red bold")])
    return [*lines, *_touched(state)]


def _counted(state: State, side: Side) -> str:
    """Since the rollout's first look; a source that began anew counts from there."""
    reading = state.look.readings.get(side) if state.look else None
    if reading is None:
        return ""
    before = state.before.get(side, reading)
    anew = reading.requests < before.requests
    requests = reading.requests - (0 if anew else before.requests)
    errors = reading.errors - (0 if anew else before.errors)
    return f"  {requests:>9,} requests  {errors:,} errors"


def _touched(state: State) -> list[Line]:
    if not state.impact:
        return []
    import msgspec

    impact = msgspec.convert(dict(state.impact), Impact)
    money = ", ".join(f"{amount} {currency}" for currency, amount in sorted(impact.money.items()))
    counts = f"{impact.customers:,} customers, {impact.transactions:,} transactions"
    words = f"  touched by {state.candidate}: {counts}"
    return [[(words + (f", {money}" if money else ""), "")]]


def _gates(state: State) -> list[Line]:
    judgements = list(state.look.judgements) if state.look else []
    waits = (
        [each for each in state.checks.judgements if each.verdict is not Verdict.PASS] if state.checks else []
    )
    if not judgements and not waits:
        return []
    return [_title("GATES"), *(_gate(each) for each in [*judgements, *waits])]


def _gate(judgement: Judgement) -> Line:
    mark, style = _MARKS[judgement.verdict]
    numbers = ", ".join(f"{name} {_number(value)}" for name, value in list(judgement.numbers.items())[:3])
    head = f"  {mark} {judgement.gate:<12.12} {judgement.verdict:<13}"
    room = _WIDTH - len(head)
    words = judgement.words if judgement.verdict is not Verdict.PASS or not numbers else numbers
    return [(head, style), (words if len(words) <= room else words[: room - 1] + "…", "")]


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)[:20]


def _fleets(state: State) -> list[Line]:
    look = state.look
    if look is None:
        return []
    ready = "unknown" if look.ready is None else str(look.ready)
    bad = (look.ready or 0) < look.processes
    words = f"  candidate  {state.candidate:<14.14} {ready} of {_processes(look.processes)} ready"
    return [_title("FLEETS"), [(words, "red" if bad else "")]]


def _decisions(state: State) -> list[Line]:
    return [
        _title("LAST DECISIONS"),
        *(_decision(each.at, each.who, each.words) for each in state.decisions[-6:]),
    ]


def _decision(at: str, who: str, words: str) -> Line:
    head = f"  {at[11:19]}  {who:<16.16} "
    room = _WIDTH - len(head)
    return [(head, "dim"), (words if len(words) <= room else words[: room - 1] + "…", "")]


def _hint(state: State, controller: int | None) -> Line:
    verb = _next_verb(state, controller)
    return [("hint: ", "dim"), (f"finflow rollout {verb} {state.service}", "bold")]


def _next_verb(state: State, controller: int | None) -> str:
    if state.ended:
        return "log"
    if controller is None:
        return "run"
    if state.awaiting:
        return "approve"
    return "resume" if state.paused.startswith("by ") else "promote" if state.paused else "abort"


def history(rollouts: Sequence[State]) -> str:
    """One rollout a line."""
    from finflow.cli import screens

    rows = [
        (
            _second(each.started_at),
            each.candidate,
            each.baseline,
            each.phase,
            _second(each.ended_at),
            each.reason[:60],
        )
        for each in rollouts
    ]
    return screens.table(("STARTED", "CANDIDATE", "BASELINE", "IS", "ENDED", "WHY"), rows)
