"""`finflow release`: environments that are built once from a revision or a wheel, and never changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finflow.app import Config
from finflow.app.fleets import releases
from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import EXIT_NO

if TYPE_CHECKING:
    from finflow.stack.releases.store import Release, Store

_DIGEST_SHOWN = 12


@click.group
def release() -> None:
    """Build, list, check and remove releases."""


@release.command
@click.argument("revision", default="HEAD")
@click.option("--repository", default=".", metavar="FOLDER", help="The git repository [.].")
@click.option("--wheel", type=Path, metavar="FILE", help="A wheel instead of a revision.")
@click.option("--commit", help="Of a wheel: the commit that it was built from.")
@click.option("--committed-at", metavar="TIME", help="Of a wheel: when that was (RFC 3339), for lead times.")
@click.option("--name", help="The release's name [PROJECT-COMMIT].")
@click.option(
    "--lock",
    metavar="FILE",
    help="Locked requirements in the revision [requirements.lock, requirements/run.txt, requirements.txt].",
)
@click.option("--no-lock", is_flag=True, help="The project needs nothing, whatever files it has.")
@click.option("--allow-unhashed", is_flag=True, help="Take requirements without hashes.")
@click.option("--isolated", is_flag=True, help="Install the requirements for this release alone.")
@click.option(
    "--from-current",
    is_flag=True,
    help="Copy the requirements from what is installed here, file by file checked.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be built.")
@data_option
@json_option
def build(revision: str, as_json: bool, dry_run: bool, **flags: Any) -> None:
    """Build a release from a revision of a git repository, or from a wheel."""
    from finflow.stack.releases.build import Builder, Wanted

    store = _store(flags)
    repository = Path(flags.pop("repository"))
    wanted = Wanted(revision=revision, repository=repository, **flags)
    builder = Builder(store, wanted, lambda text: click.echo(text, err=True))
    if dry_run:
        planned = builder.plan()
        if as_json:
            echo_json(planned)
        else:
            there = "is there already" if planned.release_there else "would be built"
            click.echo(f"{planned.name} {there}; {_dependencies(planned.layer, planned.layer_there)}.")
        return
    built, made = builder.build()
    if as_json:
        echo_json({**_facts(store, built), "made": made})
    else:
        click.echo(built.name)
        click.echo(f"{'Built' if made else 'Was there already'}: {store.folder(built.name)}", err=True)


@release.command("list")
@data_option
@json_option
def list_(as_json: bool, **flags: Any) -> None:
    """List the releases, the newest first."""
    store = _store(flags)
    found = store.listed()
    if as_json:
        echo_json({"items": [_facts(store, each) for each in found]})
        return
    for each in found:
        made = each.source.commit or each.source.wheel or "-"
        click.echo(f"{each.name}  {made[:_DIGEST_SHOWN]}  {each.digest[:_DIGEST_SHOWN]}  {each.built_at}")


@release.command
@click.argument("name")
@data_option
@json_option
def show(name: str, as_json: bool, **flags: Any) -> int:
    """Show a release and check every file of it; exit 1 if it is not as it was built."""
    store = _store(flags)
    found = store.get(name)
    faults = store.faults(found)
    facts = {**_facts(store, found), "whole": not faults, "faults": faults, "processes": store.users(name)}
    if as_json:
        echo_json(facts)
    else:
        for key, value in facts.items():
            if value not in (None, []):
                click.echo(f"{key:<14}{_shown(value)}")
    for fault in faults:
        click.echo(f"Error: {fault}", err=True)
    return EXIT_NO if faults else 0


@release.command
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while processes of it run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say whether it could be removed.")
@data_option
def remove(name: str, force: bool, yes: bool, dry_run: bool, **flags: Any) -> None:
    """Remove a release, and its dependencies when no other release needs them."""
    from finflow.kernel.errors import FinFlowError

    store = _store(flags)
    store.get(name)
    users = store.users(name)
    if users and not force:
        raise FinFlowError("release_in_use", f"{name} is used by processes {', '.join(map(str, users))}.")
    if dry_run:
        click.echo(f"{name} would be removed.", err=True)
        return
    if not yes:
        click.confirm(f"Remove {name}?", abort=True, err=True)
    layer_too = store.remove(name, force=force)
    click.echo(f"Removed {name}{' and its dependencies' if layer_too else ''}.", err=True)


def _store(flags: dict[str, Any]) -> "Store":
    return releases(Config.load({"data": flags.pop("data")}).data)


def _facts(store: "Store", found: "Release") -> dict[str, Any]:
    return {
        "name": found.name,
        "project": found.project,
        "version": found.version,
        "commit": found.source.commit,
        "committed_at": found.source.committed_at,
        "wheel": found.source.wheel,
        "wheel_sha256": found.source.wheel_sha256,
        "python": found.python,
        "lock": found.lock,
        "layer": found.layer,
        "isolated": found.isolated,
        "digest": found.digest,
        "built_at": found.built_at,
        "folder": str(store.folder(found.name)),
    }


def _shown(value: Any) -> str:
    import msgspec

    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict):
        return " ".join(f"{key}={each}" for key, each in plain.items())
    if isinstance(plain, list):
        return ", ".join(map(str, plain))
    return {True: "yes", False: "no"}.get(plain, str(plain)) if isinstance(plain, bool) else str(plain)


def _dependencies(layer: str | None, there: bool) -> str:
    if layer is None:
        return "no shared dependencies"
    return (
        f"its dependencies (layer {layer[:_DIGEST_SHOWN]}) {'are there' if there else 'would be installed'}"
    )
