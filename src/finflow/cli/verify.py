"""`finflow verify`: is this deployment good? Exit 0 yes, 1 no, 3 nobody answers."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from finflow.cli import echo_json
from finflow.cli.acceptance import acceptance
from finflow.cli.options import data_option, json_option, url_option
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.app import Config
    from finflow.verification.model import Outcome
    from finflow.verification.spec import Spec

# Inputs that nobody may read in `ps` come by the environment, each under its name behind this.
_INPUT: Final = "FINFLOW_VERIFY_"
_DEADLINE_S: Final = 300.0


def _pairs(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not name or not sign for name, sign, _value in pairs):
        raise click.BadParameter("write it as NAME=VALUE", param=parameter)
    return {name: value for name, _sign, value in pairs}


@click.group(invoke_without_command=True)
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), help="The checks [the bank's own].")
@click.option("--tag", "tags", multiple=True, help="Only checks with this tag; may be repeated [all].")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", callback=_pairs, help="An input.")
@click.option("--strict", is_flag=True, help="A check that is skipped is a failure, too.")
@click.option(
    "--deadline-s", type=click.FloatRange(1, 3600), default=_DEADLINE_S, show_default=True,
    help="Seconds for the whole.",
)  # fmt: skip
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit XML to this file.")
@click.option("--dry-run", is_flag=True, help="Show which checks would run, and ask nobody anything.")
@url_option
@data_option
@json_option
@click.pass_context
def verify(context: click.Context, /, **options: Any) -> int:
    """Check a deployment: critical paths, databases, certificates, queues, alerts.

    Without --spec the bank is checked, in a synthetic tenant that every run leaves as it was. Secrets come
    from environment variables: FINFLOW_TOKEN, and FINFLOW_VERIFY_NAME for an input NAME.
    """
    if context.invoked_subcommand is not None:
        return 0
    spec = _spec(options["spec_file"], options["tags"])
    if options["dry_run"]:
        return _show(spec, options)
    return asyncio.run(_verify(spec, options))


def _spec(path: Path | None, tags: tuple[str, ...]) -> "Spec":
    from finflow.verification import loading

    spec = loading.parse(loading.shipped("bank"), "bank.yaml") if path is None else loading.load(path)
    known = {tag for check in spec.checks for tag in check.tags}
    for tag in tags:
        if tag not in known:
            detail = f"No check has the tag {tag!r}; there are: {', '.join(sorted(known)) or 'none'}."
            raise click.UsageError(detail)
    return spec


def _show(spec: "Spec", options: Mapping[str, Any]) -> int:
    from finflow.cli.screens import table
    from finflow.verification.model import dependencies, selected

    waits = dependencies(spec)
    checks = selected(spec, options["tags"])
    if options["as_json"]:
        plain = [
            {"id": c.id, "tags": c.tags, "waits_for": sorted(waits[c.id]), "title": c.title} for c in checks
        ]
        echo_json({"name": spec.name, "checks": plain})
    else:
        rows = [(c.id, c.__struct_config__.tag, " ".join(c.tags), c.title) for c in checks]
        click.echo(table(("CHECK", "KIND", "TAGS", "WHAT"), rows))
    return 0


async def _verify(spec: "Spec", options: Mapping[str, Any]) -> int:
    from finflow.app import Config
    from finflow.verification import report as shown
    from finflow.verification.service import Run, check_reachable
    from finflow.verification.service import verify as verified

    _check_inputs(spec, options["given"])
    _check_writable(options["junit"])
    config = Config.load({"data": options["data"]})
    bank = options["spec_file"] is None
    url = _url(spec, options, config, bank)
    if url:
        await check_reachable(url)
    from finflow.app.smoke import given_inputs

    own = given_inputs(spec, os.environ)
    began_s = time.monotonic()
    found, before = await _bank_inputs(url, config) if bank else ({}, [])
    report = await verified(
        Run(
            spec=spec,
            url=url,
            tags=options["tags"],
            values={**found, **own, **options["given"]},
            environ=_environment(url, config),
            deadline_s=max(0.0, options["deadline_s"] - (time.monotonic() - began_s)),
            told=lambda outcome: click.echo(shown.line(outcome), err=options["as_json"]),
            before=before,
        )
    )
    strict = options["strict"]
    if options["junit"]:
        _write(options["junit"], shown.junit(report))
    if options["as_json"]:
        echo_json(shown.plain(report, strict=strict))
    else:
        click.echo(f"\n{shown.sentence(report)}")
    return report.exit_code(strict=strict)


def _url(spec: "Spec", options: Mapping[str, Any], config: "Config", bank: bool) -> str:
    """Where the service is: as named, or as the spec says, or what runs on the data folder."""
    if options["url"] or (spec.url and not bank):
        return str(options["url"] or spec.url)
    if bank:
        from finflow.cli.connect import running_url

        return running_url({"url": None}, config)
    return ""


def _check_inputs(spec: "Spec", given: Mapping[str, str]) -> None:
    for name in given:
        if name not in {*spec.inputs, *spec.variables}:
            known = ", ".join([*spec.inputs, *spec.variables]) or "none"
            raise click.UsageError(f"The spec has no input {name!r}; there are: {known}.")
        if name in spec.secrets:
            raise click.UsageError(f"{name!r} is a secret: give it as {_INPUT}{name.upper()}.")


async def _bank_inputs(url: str, config: "Config") -> "tuple[Mapping[str, str], list[Outcome]]":
    """The bank's inputs; or a failed outcome where the service is too broken to give them.

    The other checks then say how far it is broken. Raises what whoever asks has to mend: 401, 403 and so on.
    """
    from finflow.verification.model import Outcome, Status

    began_s = time.monotonic()
    try:
        return await _asked_inputs(url, config), []
    except FinFlowError as error:
        if error.kind.status < 500 or error.kind.code == "signing_key_unknown":
            raise
        failed = Outcome(
            id="inputs", kind="http", title="The synthetic tenant and its ledger are found or made", tags=[],
            status=Status.FAILED, words=f"{error.kind.code}: {error.detail.rstrip(': ')}",
            duration_s=round(time.monotonic() - began_s, 3),
        )  # fmt: skip
        return {}, [failed]


async def _asked_inputs(url: str, config: "Config") -> Mapping[str, str]:
    """A token of the synthetic tenant and the operator's: of the environment, or signed with local keys."""
    from finflow.app.verifying import inputs_of_tenant, synthetic_tenant
    from finflow.cli.connect import Access

    access = Access(url, config)
    given = access.given()
    if given is not None:
        return await inputs_of_tenant(url, given)
    tokens = access.local()
    if tokens is None:
        raise FinFlowError("token_missing", f"Nothing says who you are to {url}, and it does not run here.")
    operator = tokens.operator()
    tenant_id = await synthetic_tenant(url, operator)
    return await inputs_of_tenant(url, tokens.of(tenant_id), operator, tenant_id)


def _environment(url: str, config: "Config") -> Mapping[str, str]:
    """The environment; with the database's URL where the service runs on our data folder and none is set."""
    from finflow.cli.connect import Access
    from finflow.stack.folder import DataFolder

    environ = dict(os.environ)
    state = DataFolder(config.data).read_state()
    if "FINFLOW_DATABASE_URL" not in environ and state and url and Access(url, config).local():
        environ["FINFLOW_DATABASE_URL"] = state.database_url
    return environ


def _check_writable(path: Path | None) -> None:
    """Before anything is asked: a report that cannot be kept is found out now, not after the run."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise click.UsageError(f"--junit {path}: there is no folder that can be written to.")


def _write(path: Path, data: bytes) -> None:
    """The whole file or none: continuous integration never reads half a report."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error


verify.add_command(acceptance)
