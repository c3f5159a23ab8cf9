"""Fleets and releases as a rollout's SPEC names them, made of what the stack has."""

from pathlib import Path
from typing import TYPE_CHECKING

from finflow.kernel.errors import FinFlowError
from finflow.rollout.fleet_spec import CommandFleet as CommandSpec
from finflow.rollout.fleet_spec import EndpointsFleet as EndpointsSpec
from finflow.rollout.fleet_spec import FleetSpec

if TYPE_CHECKING:
    from finflow.rollout.ports import Fleet
    from finflow.stack.fleets.folder import Plan
    from finflow.stack.releases.store import Store


def releases(data: Path) -> "Store":
    """The releases of a data folder."""
    from finflow.stack.releases.store import Store

    return Store(data / "releases")


def fleet(spec: FleetSpec, *, data: Path, service: str, release: str, base: Path) -> "Fleet":
    """The fleet of a spec: `release` is the label of what runs there; relative paths begin at `base`.

    Its state lies in `folder`, or else in DATA/fleets/SERVICE/RELEASE. Raises release_unknown and
    release_tampered.
    """
    if isinstance(spec, EndpointsSpec):
        from finflow.stack.fleets.endpoints import EndpointsFleet

        return EndpointsFleet(spec)
    from finflow.stack.fleets.command import CommandFleet

    root = base / spec.folder if spec.folder else data / "fleets" / service / release
    return CommandFleet(root, plan(spec, data=data, release=release, base=base))


def plan(spec: CommandSpec, *, data: Path, release: str, base: Path) -> "Plan":
    """What a process of the fleet is, with every path whole and the release's places filled in."""
    from finflow.stack.fleets.folder import Plan

    folder = _release_folder(spec, data)
    places = {"{python}": f"{folder}/bin/python", "{bin}": f"{folder}/bin", "{release}": folder}
    working = base / spec.working_folder if spec.working_folder else _working_folder(folder, base)
    return Plan(
        command=tuple(_filled(word, places if folder else {}) for word in spec.command),
        working_folder=str(working.absolute()),
        release=release,
        release_folder=folder,
        port_variable=spec.port_variable,
        ready_path=spec.ready_path,
        ready_status=spec.ready_status,
        environment={"FINFLOW_RELEASE": release, **spec.environment},
        environment_from=spec.environment_from,
        environment_file=str((base / spec.environment_file).absolute()) if spec.environment_file else None,
        drain_s=spec.drain_s,
        stop_timeout_s=spec.stop_timeout_s,
        hung_after_s=spec.hung_after_s,
        memory_limit_mb=spec.memory_limit_mb,
    )


def _release_folder(spec: CommandSpec, data: Path) -> str:
    """Where the built release lies, if the spec names one; it must be as it was built."""
    if spec.release is None:
        named = [word for word in spec.command if any(f"{{{each}}}" in word for each in ("python", "bin"))]
        if named:
            raise FinFlowError("release_unknown", f"{named[0]} needs a `release`, and the fleet names none.")
        return ""
    store = releases(data)
    built = store.get(spec.release)
    # The layer is shared and large: `finflow release show` looks at it.
    if faults := store.faults(built, layer_too=False):
        raise FinFlowError("release_tampered", f"{built.name}: {faults[0]}.")
    return str(store.folder(built.name))


def _working_folder(release: str, base: Path) -> Path:
    source = Path(release) / "source"
    return source if release and source.is_dir() else base


def _filled(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word
