"""SPEC.yaml: what is rolled out, in which steps, judged by what. Every fault is named with its line."""

import re
from datetime import datetime
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import CheckSpec, NotifySpec
from finflow.rollout.fleet_spec import EndpointsFleet, FleetSpec
from finflow.rollout.gates_spec import Gates, Metrics
from finflow.rollout.ingress_spec import IngressSpec
from finflow.rollout.verdicts import FULL_WEIGHT_BP
from finflow.rollout.yaml_lines import Document, Fault, Faulty, read

Name = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="Small letters, digits and dashes."),
]
ReleaseName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+\-]{0,63}$", description="The name of a release."),
]
Seconds = Annotated[float, Meta(ge=0, le=30 * 86_400)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=86_400)]
Percent = Annotated[float, Meta(gt=0, le=100)]
Count = Annotated[int, Meta(ge=1, le=1_000)]


class OnTrouble(StrEnum):
    """What the controller does by itself about something that is neither good nor bad."""

    PAUSE = "pause"
    ABORT = "abort"


class OnDrift(StrEnum):
    """What the controller does about a weight that somebody else has set."""

    CORRECT = "correct"
    PAUSE = "pause"


class Afterwards(StrEnum):
    """What becomes of processes that serve nobody any more."""

    KEEP = "keep"
    STOP = "stop"


class ReleaseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release: its name, where it comes from, and the processes that serve it."""

    release: ReleaseName
    fleet: FleetSpec
    commit: Annotated[str, Meta(max_length=64)] | None = None
    committed_at: Annotated[str, Meta(description="RFC 3339, for the lead time.")] | None = None


class StepSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rung of the ladder: how many customers, for how long, and what must be so before."""

    weight_percent: Percent
    bake_s: Annotated[float, Meta(gt=0, le=30 * 86_400, description="Judged at least so long.")]
    minimum_requests: Annotated[
        int, Meta(ge=0, description="The candidate answered so many in this step.")
    ] = 0
    processes: Annotated[Count, Meta(description="Of the candidate; else in proportion.")] | None = None
    approval: Annotated[bool, Meta(description="A person must approve before this step.")] = False

    @property
    def weight_bp(self) -> int:
        """The weight as the ingress takes it."""
        return round(self.weight_percent * 100)


class PolicySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How patient the controller is, and what it does by itself."""

    look_every_s: Annotated[float, Meta(ge=0.05, le=600)] = 1.0
    patience_s: Annotated[
        Seconds, Meta(description="Inconclusive so long after the bake: on_inconclusive.")
    ] = 60.0
    on_inconclusive: OnTrouble = OnTrouble.PAUSE
    error_after_s: Annotated[
        Seconds, Meta(description="No numbers, or a check that errs, so long: on_error.")
    ] = 30.0
    on_error: OnTrouble = OnTrouble.PAUSE
    on_drift: OnDrift = OnDrift.CORRECT
    ready_within_s: PositiveSeconds = 60.0
    unready_after_s: Annotated[Seconds, Meta(description="Candidate processes missing so long: abort.")] = 5.0
    drain_within_s: PositiveSeconds = 30.0
    recheck_every_s: Annotated[
        PositiveSeconds, Meta(description="Checks that do not pass are asked again.")
    ] = 10.0
    baseline_after_promote: Afterwards = Afterwards.STOP
    candidate_after_abort: Afterwards = Afterwards.KEEP


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole rollout.

    `service` names the folder of its state. `baseline` serves now, `candidate` is to follow it: its
    processes are started as the `steps` need them. `metrics` are the numbers, `gates` judge them at every
    look; `checks` are asked before every step, `notify` says who is told. Weights grow up to 100.
    """

    service: Name
    ingress: IngressSpec
    baseline: ReleaseSpec
    candidate: ReleaseSpec
    steps: Annotated[list[StepSpec], Meta(min_length=1, max_length=50)]
    metrics: Metrics
    gates: Gates = Gates()
    checks: Annotated[tuple[CheckSpec, ...], Meta(max_length=50)] = ()
    notify: Annotated[tuple[NotifySpec, ...], Meta(max_length=20)] = ()
    policy: PolicySpec = PolicySpec()
    impact: Annotated[
        Literal["journal"] | None,
        Meta(description="`journal`: what the candidate did in FinFlow's own ledger."),
    ] = None


_UNKNOWN: Final = re.compile(r"unknown field `(?P<key>[^`]*)`")
_AT: Final = re.compile(r" - at `(?P<path>[^`]*)`$")


def loaded(path: Path) -> RolloutSpec:
    """The spec in a file. Raises file_unreadable, and spec_malformed with every fault on a line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}", "SPEC") from error
    found, faults = parsed(data)
    if found is None:
        raise FinFlowError("spec_malformed", "\n  ".join(shown(str(path), faults)), "SPEC")
    return found


def shown(name: str, faults: list[Fault]) -> list[str]:
    """One line a fault, as compilers write them."""
    return [f"{name}:{fault.line}:{fault.column}: {fault.words}" for fault in sorted(faults)]


def parsed(data: bytes) -> tuple[RolloutSpec | None, list[Fault]]:
    """The spec in these bytes, or None and what is wrong with it."""
    try:
        document = read(data)
    except Faulty as error:
        return None, [error.fault]
    faults = _shape(document)
    if faults:
        return None, faults
    spec = msgspec.convert(document.value, RolloutSpec)
    faults = [Fault(*document.where(path), words) for path, words in _meaning(spec)]
    return (None if faults else spec), faults


def _shape(document: Document) -> list[Fault]:
    """Fields and types: one fault for each section, so that one run names more than the first."""
    if not isinstance(document.value, dict):
        return [Fault(1, 1, "a spec is a mapping: service, ingress, baseline, candidate, steps, metrics")]
    faults: list[Fault] = []
    types = {field.name: field.type for field in msgspec.structs.fields(RolloutSpec)}
    known = f"known are {', '.join(types)}"
    faults += [
        Fault(*document.where("$", name), f"unknown field `{name}`; {known}")
        for name in document.value.keys() - types.keys()
    ]
    for name in types.keys() & document.value.keys():
        faults += _section(document, name, document.value[name], types[name])
    required = [field.name for field in msgspec.structs.fields(RolloutSpec) if field.required]
    missing = [name for name in required if name not in document.value]
    return faults + [Fault(*document.where("$"), f"the field `{name}` is missing") for name in missing]


def _section(document: Document, name: str, value: Any, type_: Any) -> list[Fault]:
    if name == "steps" and isinstance(value, list):
        found = [_converted(document, each, StepSpec, f"$.steps[{i}]") for i, each in enumerate(value)]
        if any(found):
            return [fault for fault in found if fault]
    fault = _converted(document, value, type_, f"$.{name}")
    return [fault] if fault else []


def _converted(document: Document, value: Any, type_: Any, place: str) -> Fault | None:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        return _fault(document, str(error), place)
    return None


def _fault(document: Document, words: str, place: str) -> Fault:
    at = _AT.search(words)
    path = place + (at["path"].removeprefix("$") if at else "")
    unknown = _UNKNOWN.search(words)
    line, column = document.where(path, unknown["key"] if unknown else None)
    plain = (
        _AT.sub("", words)
        .replace("Object contains", "here is an")
        .replace("Object missing", "here is missing the")
    )
    return Fault(line, column, f"{plain} ({path.removeprefix('$.')})")


def _meaning(spec: RolloutSpec) -> list[tuple[str, str]]:
    """What types cannot say: paths and sentences."""
    faults = []
    weights = [step.weight_bp for step in spec.steps]
    for i in range(1, len(weights)):
        if weights[i] <= weights[i - 1]:
            words = f"weights grow from step to step, and {spec.steps[i].weight_percent:g} % does not"
            faults.append((f"$.steps[{i}].weight_percent", words))
    for i, step in enumerate(spec.steps):
        if abs(step.weight_percent * 100 - step.weight_bp) > 1e-6 or step.weight_bp < 1:
            faults.append((f"$.steps[{i}].weight_percent", "a weight has at most two decimals"))
    if weights[-1] != FULL_WEIGHT_BP:
        place = f"$.steps[{len(weights) - 1}].weight_percent"
        faults.append((place, "the last step sends everybody: weight_percent 100"))
    faults += _processes(spec)
    if spec.baseline.release == spec.candidate.release:
        faults.append(("$.candidate.release", f"{spec.candidate.release} is the baseline, too"))
    return faults + _dates(spec)


def _processes(spec: RolloutSpec) -> list[tuple[str, str]]:
    counts = [processes_for(spec, index) for index in range(len(spec.steps))]
    return [
        (
            f"$.steps[{i}].processes",
            f"step {i + 1} has fewer processes of the candidate than the one before it",
        )
        for i in range(1, len(counts))
        if counts[i] < counts[i - 1]
    ]


def _dates(spec: RolloutSpec) -> list[tuple[str, str]]:
    faults = []
    for side, release in (("baseline", spec.baseline), ("candidate", spec.candidate)):
        if release.committed_at is not None and moment(release.committed_at) is None:
            faults.append(
                (f"$.{side}.committed_at", "write it like 2026-06-01T16:59:00Z, with its time zone")
            )
    return faults


def moment(text: str) -> datetime | None:
    """The moment of an RFC 3339 text, or None if it is none or has no time zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def fleet_processes(release: ReleaseSpec) -> int:
    """How many processes serve everybody."""
    fleet = release.fleet
    return len(fleet.endpoints) if isinstance(fleet, EndpointsFleet) else fleet.processes


def processes_for(spec: RolloutSpec, step: int) -> int:
    """How many processes of the candidate a step needs: named in the step, or in proportion to its weight.

    Processes that somebody else runs are not scaled: all of them are there, or the step is not taken.
    """
    rung = spec.steps[step]
    whole = fleet_processes(spec.candidate)
    if isinstance(spec.candidate.fleet, EndpointsFleet):
        return whole
    return rung.processes or max(1, ceil(whole * rung.weight_bp / FULL_WEIGHT_BP))


def schema() -> dict[str, Any]:
    """The JSON schema of a spec, for editors."""
    found = msgspec.json.schema(RolloutSpec)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "FinFlow rollout", **found}
