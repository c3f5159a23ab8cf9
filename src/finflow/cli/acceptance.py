"""`finflow verify acceptance`: settlement end to end on a clone. Exit 0 as expected, 1 not."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.acceptance.service import Result


@click.command
@click.option(
    "--clone-url", envvar="FINFLOW_CLONE_URL", metavar="URL",
    help="A clone that is there and marked (FINFLOW_CLONE_URL).",
)  # fmt: skip
@click.option(
    "--template-url", envvar="FINFLOW_TEMPLATE_URL", metavar="URL",
    help="A restored backup to copy on its own server (FINFLOW_TEMPLATE_URL).",
)  # fmt: skip
@click.option("--orders", type=click.IntRange(40, 100_000), default=400, show_default=True, help="How many.")
@click.option(
    "--deadline-s", type=click.FloatRange(1, 3600), default=300.0, show_default=True,
    help="Seconds for the whole, the clone included.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say where it would run, and make nothing.")
@data_option
@json_option
def acceptance(**options: Any) -> int:
    """Try settlement end to end on a clone, and compare the books with what the orders come to.

    Without a URL the clone is made by a base backup of the FinFlow that runs on the data folder.
    """
    return asyncio.run(_acceptance(options))


async def _acceptance(options: Mapping[str, Any]) -> int:
    from finflow.acceptance import service

    for name in ("clone_url", "template_url"):
        _check_url(options[name], f"--{name.replace('_', '-')}")
    source = _source(options)
    if options["dry_run"]:
        click.echo(_words(options, source))
        return 0
    try:
        async with asyncio.timeout(options["deadline_s"]):
            click.echo(_words(options, source), err=True)
            async with _clone(options, source) as url:
                with tempfile.TemporaryDirectory(prefix="ff-rail-") as folder:
                    result = await service.accept(
                        url,
                        Path(folder),
                        source_url=source,
                        orders=options["orders"],
                        deadline_s=options["deadline_s"],
                        told=lambda words: click.echo(words, err=True),
                    )
    except TimeoutError as error:
        detail = f"not done within {options['deadline_s']:g} s"
        raise FinFlowError("deadline_exceeded", detail, "--deadline-s") from error
    return _show(result, options["as_json"])


def _check_url(url: str | None, name: str) -> None:
    if url and not url.startswith(("postgresql://", "postgres://")):
        # What it holds may be a secret that lost its beginning.
        raise FinFlowError("setting_malformed", f"{name} is not a postgresql:// URL.", name)


def _source(options: Mapping[str, Any]) -> str | None:
    """Production's database, where we know it: it is what must not be touched, and what is cloned."""
    from finflow.app import Config
    from finflow.stack.folder import DataFolder

    config = Config.load({"data": options["data"]})
    state = DataFolder(config.data).read_state()
    source = state.database_url if state else config.database_url
    if options["clone_url"] or options["template_url"]:
        return source
    if state is None:
        detail = f"Nothing runs on {config.data}, and neither --clone-url nor --template-url is given."
        raise FinFlowError("stack_not_running", detail)
    if state.postgres is None:
        detail = (
            "production's server is not ours to copy: restore a backup of it and name that as --template-url"
        )
        raise FinFlowError("clone_failed", detail)
    return source


def _words(options: Mapping[str, Any], source: str | None) -> str:
    from finflow.telemetry.redaction import redact

    if options["clone_url"]:
        return f"Acceptance runs on the clone {redact(options['clone_url'])}."
    if options["template_url"]:
        return f"Acceptance runs on a copy of {redact(options['template_url'])}, dropped at the end."
    return f"Acceptance runs on a base backup of {redact(source or '')}, removed at the end."


@asynccontextmanager
async def _clone(options: Mapping[str, Any], source: str | None) -> AsyncIterator[str]:
    from finflow.app import accepting

    if options["clone_url"]:
        yield options["clone_url"]
    elif options["template_url"]:
        async with accepting.clone_of_template(options["template_url"]) as url:
            yield url
    else:
        assert source is not None, "a source was found"
        async with accepting.clone_of_embedded(source) as url:
            yield url


def _show(result: "Result", as_json: bool) -> int:
    from finflow.cli.screens import table

    if as_json:
        echo_json(
            {
                "accepted": result.accepted,
                **{name: getattr(result, name) for name in result.__struct_fields__},
            }
        )
    else:
        if result.differences:
            rows = [(each.what, each.expected, each.found) for each in result.differences]
            click.echo(table(("WHAT", "EXPECTED", "FOUND"), rows) + "\n")
        verdict = "ACCEPTED" if result.accepted else "NOT ACCEPTED"
        click.echo(
            f"{verdict}: {result.orders} orders, {result.compared} facts compared, "
            f"the books of {result.ledgers} ledgers recounted, "
            f"{len(result.differences)} differences in {result.duration_s:.1f} s."
        )
    return 0 if result.accepted else 1
