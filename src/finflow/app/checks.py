"""From the `checks:` section to checks that can be asked: everything that they read is named here."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout import checks_spec as spec
from finflow.rollout.checks.approval import ManifestsCheck
from finflow.rollout.checks.freeze import FreezeCheck
from finflow.rollout.checks.programs import CommandCheck
from finflow.rollout.checks.scan import ScanCheck
from finflow.rollout.ports import Approvals, Check


class Surroundings(msgspec.Struct, frozen=True):
    """What checks need besides their spec: where relative paths begin, whose rollout it is, who approved."""

    folder: Path
    service: str
    release: str
    approvals: Approvals
    environ: Mapping[str, str] = os.environ


# How a kind of check is made that another part owns: smoke, shadow, schema.
Maker = Callable[[Any, Surroundings], Check]


def checks(
    specs: Sequence[spec.CheckSpec], around: Surroundings, makers: Mapping[type, Maker] = {}
) -> list[Check]:
    """A check for each spec, in their order. Raises check_unavailable for one that cannot be made here."""
    return [_made(each, around, {**_OWN, **makers}, f"checks[{i}]") for i, each in enumerate(specs)]


def _made(each: spec.CheckSpec, around: Surroundings, makers: Mapping[type, Maker], where: str) -> Check:
    maker = makers.get(type(each))
    if maker is None:
        kind = type(each).__struct_config__.tag
        raise FinFlowError("check_unavailable", f"There is nothing here that makes a {kind} check.", where)
    return maker(each, around)


def _command(each: spec.CommandSpec, around: Surroundings) -> Check:
    told = {"FINFLOW_ROLLOUT_SERVICE": around.service, "FINFLOW_ROLLOUT_RELEASE": around.release}
    return CommandCheck(each, around.folder, around.environ, told)


def _invariants(each: spec.InvariantsSpec, around: Surroundings) -> Check:
    from finflow.shadow.invariants import InvariantsCheck

    url = around.environ.get(each.database_url_variable)
    if not url:
        raise FinFlowError(
            "check_unavailable", f"The variable {each.database_url_variable} is not set.", each.name
        )
    return InvariantsCheck(url, each.name, each.rows_per_look, each.timeout_s)


_OWN: Mapping[type, Maker] = {
    spec.ScanSpec: lambda each, around: ScanCheck(each, around.folder),
    spec.ManifestsSpec: lambda each, around: ManifestsCheck(each, around.folder, around.approvals),
    spec.FreezeSpec: lambda each, around: FreezeCheck(each, around.approvals),
    spec.CommandSpec: _command,
    spec.InvariantsSpec: _invariants,
}
