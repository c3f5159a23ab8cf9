"""Writes the reference pages that come from code, and the line numbers of links into the code.

`python docs/generate.py` writes them; tests/house/test_reference.py holds that the committed pages are the
written ones.
"""

import ast
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from finflow import cli
from finflow.cli import COMMANDS
from finflow.db.lint.rules import RULES, SQUAWK_IN_CONTRACT, SQUAWK_LEVELS
from finflow.kernel.errors import CATALOGUE, Kind
from finflow.ledger.guards import PRECEDENCE
from finflow.rollout.spec import schema as schema_of_rollouts
from finflow.settings import SETTINGS
from finflow.stack import settings
from finflow.stack.meter import StackMeter
from finflow.telemetry.instruments import REGISTRY
from finflow.telemetry.metrics import Declaration

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "finflow"
_NOTE = "<!-- Written by docs/generate.py from {source}; a change here is lost. -->\n"
_HELP_WIDTH = 100


def pages() -> dict[str, str]:
    """Every page that is written or holds a written part: its path under docs/, and its whole text."""
    written = {
        "reference/errors.md": errors(),
        "reference/cli.md": command_line(),
        "reference/configuration.md": configuration(),
        "reference/schema.md": schema(),
        "reference/metrics.md": metrics(),
        "reference/rollout-spec.md": rollout_spec(),
        "reference/schema-lint.md": schema_lint(),
    }
    ledger_model = "reference/ledger-model.md"
    written[ledger_model] = with_precedence((DOCS / ledger_model).read_text())
    for page in sorted(DOCS.rglob("*.md")):
        name = str(page.relative_to(DOCS))
        if name not in written:
            text = page.read_text()
            if with_lines(text, page) != text or _LINK.search(text):
                written[name] = with_lines(text, page)
    return written


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    return _row(*head) + _row(*("---" for _ in head)) + "".join(_row(*row) for row in rows)


# --- errors ------------------------------------------------------------------------------------------


def errors() -> str:
    """The catalogue, under the headings that its comments are."""
    text = "# Errors\n\n" + _NOTE.format(source="src/finflow/kernel/errors.py") + _ERRORS_HEAD
    for heading, kinds in _error_groups():
        rows = ((_anchored(k.code), k.status, k.exit_code, _yes(k.retryable), k.title, k.hint) for k in kinds)
        text += f"\n## {heading}\n\n" + _table(("code", "HTTP", "exit", "retry", "means", "do"), rows)
    return text


_ERRORS_HEAD = """
Every refusal and failure has a code. HTTP answers it as problem details ([HTTP](http.md#errors)), the
command line as three lines on standard error and an exit code. `retry` says whether the same request, with
the same key, can succeed later by itself. Where a command breaks several of the ledger's rules,
[their order](ledger-model.md#order-of-the-rules) decides which code it gets.
"""


def _anchored(code: str) -> str:
    return f'<a id="{code}"></a>`{code}`'


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _error_groups() -> Iterator[tuple[str, list[Kind]]]:
    heading, kinds = "", list[Kind]()
    for line in (SOURCE / "kernel" / "errors.py").read_text().splitlines():
        if comment := re.match(r"    # (.*)$", line):
            if kinds:
                yield heading, kinds
            heading, kinds = comment[1].partition(". ")[0].rstrip("."), []
        elif entry := re.match(r'    Kind\("(\w+)"', line):
            kinds.append(CATALOGUE[entry[1]])
    yield heading, kinds


def with_precedence(page: str) -> str:
    """The ledger model's page with the order of the rules behind its mark."""
    head, mark, _ = page.partition("<!-- precedence -->\n")
    numbered = "".join(
        f"{number}. [`{code}`](errors.md#{code}): {CATALOGUE[code].title}\n"
        for number, code in enumerate(PRECEDENCE, 1)
    )
    return head + mark + "\n" + numbered


# --- command line ------------------------------------------------------------------------------------


def command_line() -> str:
    """What `--help` says of every command, and the exit codes."""
    text = "# The command line\n\n" + _NOTE.format(source="src/finflow/cli") + _CLI_HEAD
    text += f"\n## finflow\n\n```text\n{_help(cli.finflow, None, 'finflow')}\n```\n"
    root = click.Context(cli.finflow, info_name="finflow")
    for name in COMMANDS:
        command = cli.finflow.get_command(root, name)
        assert command is not None, name
        text += f"\n## finflow {name}\n\n```text\n{_help(command, root, name)}\n```\n"
        if isinstance(command, click.Group):
            text += _verbs(command, click.Context(command, parent=root, info_name=name))
    return text


def _verbs(group: click.Group, context: click.Context) -> str:
    """The help of every command of a noun."""
    return "".join(
        f"\n### finflow {group.name} {verb}\n\n```text\n{_help(command, context, verb)}\n```\n"
        for verb, command in _commands(group, context)
    )


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """The verbs of a noun, those that load late, too."""
    for verb in group.commands or group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None, verb
        yield verb, command


_CLI_HEAD = """
Data goes to standard output; progress and hints go to standard error. `--json` prints one line of JSON.
Colours appear on a terminal only, and not where `NO_COLOR` is set. Flags win over `FINFLOW_*` variables, and
those over defaults ([configuration](configuration.md)).

| exit code | means |
| --- | --- |
| 0 | done, or yes |
| 1 | no: refused, not equal, not running |
| 2 | the command was used wrongly |
| 3 | something it needs cannot be reached |
| 4 | a bug |
| 130 | interrupted |
"""


def _help(command: click.Command, parent: click.Context | None, name: str) -> str:
    context = click.Context(
        command,
        parent=parent,
        info_name=name,
        terminal_width=_HELP_WIDTH,
        max_content_width=_HELP_WIDTH,
        help_option_names=["-h", "--help"],
    )
    return command.get_help(context)


# --- configuration -----------------------------------------------------------------------------------

# Defaults that differ from machine to machine, in words.
_DEFAULTS = {
    "data": "`finflow` in the user's data folder, most often `~/.local/share/finflow`",
    "database_url": "none: the embedded PostgreSQL",
    "port": "8400, or a free one if that is taken",
    "workers": "the number of cores",
}


def configuration() -> str:
    """Every setting, and every setting of the embedded PostgreSQL with its reason."""
    text = "# Configuration\n\n" + _NOTE.format(
        source="src/finflow/settings.py and src/finflow/stack/settings.py"
    )
    text += _CONFIGURATION_HEAD
    rows = ((f"`{s.name}`", _flag(s.name), f"`{s.variable}`", _default(s.name), s.meaning) for s in SETTINGS)
    text += "\n" + _table(("setting", "flag", "variable", "default", "means"), rows)
    text += _POSTGRES_HEAD
    fixed = {setting.name for setting in (*settings.CONSTANT, *settings.DURABLE)}
    found = settings.settings_for(Path("/"), Path("/"))
    rows = ((f"`{s.name}`", f"`{s.value}`" if s.name in fixed else "by the machine", s.reason) for s in found)
    return text + "\n" + _table(("setting", "value", "reason"), rows)


_CONFIGURATION_HEAD = """
A flag wins over its variable, the variable over the default. An empty variable counts as unset.
`finflow info` shows every value and where it comes from, with passwords masked. There is no configuration
file.
"""
_POSTGRES_HEAD = """
One more variable is read by `finflow demo` alone: `FINFLOW_SHARED_DATA`, the folder in which it looks for
`berka/trans.asc`.

## The embedded PostgreSQL

`finflow up` writes these settings to `postgres/finflow.conf` in the data folder at every start, on top of
PostgreSQL's defaults. For a server of your own, read the reasons and decide.
"""


def _flag(name: str) -> str:
    flag = f"--{name.replace('_', '-')}"
    root = click.Context(cli.finflow)
    known = {
        option
        for command in COMMANDS
        if (found := cli.finflow.get_command(root, command))
        for parameter in found.params
        for option in parameter.opts
    }
    return f"`{flag}`" if flag in known else "none"


def _default(name: str) -> str:
    default = next(setting.default for setting in SETTINGS if setting.name == name)
    return _DEFAULTS.get(name) or f"`{default()}`"


# --- metrics -----------------------------------------------------------------------------------------


def metrics() -> str:
    """Every family of the workers and of the process that keeps them running."""
    source = "src/finflow/telemetry/instruments.py and src/finflow/stack/meter.py"
    text = "# Metrics\n\n" + _NOTE.format(source=source) + _METRICS_HEAD
    declared = {each.name: each for each in (*StackMeter().registry.declarations, *REGISTRY.declarations)}
    rows = ((_shown_name(each), each.kind, _labels(each), each.help) for _, each in sorted(declared.items()))
    text += "\n" + _table(("metric", "kind", "labels", "means"), rows)
    text += "\n## Edges of the histograms\n\n"
    histograms = (each for _, each in sorted(declared.items()) if each.kind == "histogram")
    edges = ((f"`{each.name}`", ", ".join(f"{edge:g}" for edge in each.edges)) for each in histograms)
    return text + _table(("metric", "edges"), edges)


_METRICS_HEAD = """
What `/metrics` shows ([how to read it](../howto/watch-a-running-finflow.md)). The numbers of all processes
are added up; where that would make no sense, the table says so. A process that ended leaves its counters
and histograms behind, and takes its gauges along. Times are seconds. `release` is the setting of that name.
A process counts the first 1,000 tenants that it meets by name; the others share the label `_other`, and
`finflow_metrics_overflow_total` counts their requests. Of processes that ended 10,000 series of a family are
kept. So a tenant may count by name in one process and in `_other` in the next: where there are more than
1,000, what is said of one is at least so much.

In OpenMetrics every counter and histogram also says when it began (`_created`), and buckets of
`http_server_request_duration_seconds` name a trace that fell into them, where traces are kept.

`promtool check metrics` has one complaint and exits with 3: `db_client_connection_count` ends like a part of
a histogram and is a gauge. It is OpenTelemetry's `db.client.connection.count` as Prometheus writes it, so it
keeps its name.
"""


def _shown_name(each: Declaration) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(each.kind, "")
    return f"`{each.name}{suffix}`"


def _labels(each: Declaration) -> str:
    names = (*each.labels, "release") if each.released else each.labels
    combined = {"max": "the largest of all processes", "min": "the least of all processes"}.get(
        each.merge, ""
    )
    found = ", ".join(f"`{name}`" for name in names) or "none"
    return f"{found} ({combined})" if combined and each.kind == "gauge" else found


# --- schema ------------------------------------------------------------------------------------------


def schema() -> str:
    """The SQL of the migrations, each comment a paragraph before what it is about."""
    text = "# The database's schema\n\n" + _NOTE.format(source="src/finflow/db/migrations") + _SCHEMA_HEAD
    for file in sorted((SOURCE / "db" / "migrations").glob("*.sql")):
        text += f"\n## {file.stem}\n\n" + "\n".join(_parts(file.read_text()))
    return text


_SCHEMA_HEAD = """
The migrations, in the order in which they are applied. A change of the schema is a new file; one that was
released is never changed. `finflow migrate` applies what is missing, each file in one transaction with its
row in `schema_migrations`.
"""


def _parts(sql: str) -> Iterator[str]:
    """Comments at the margin as paragraphs, everything between them as code."""
    for is_comment, lines in itertools.groupby(sql.splitlines(), lambda line: line.startswith("-- ")):
        if is_comment:
            yield " ".join(line[3:] for line in lines).replace("_", r"\_") + "\n"
        elif code := "\n".join(lines).strip():
            yield f"```sql\n{code}\n```\n"


# --- what a rollout's specification may say ----------------------------------------------------------

_SPEC_HEAD = """
A specification is a YAML file of up to 256 KiB: plain values only, numbers and booleans written as in JSON
(so `no` and `12:30` are text), no tags, no key twice. `finflow rollout validate SPEC.yaml` names every fault
with its line and column; `finflow rollout schema` prints this page as a JSON schema, for editors.
Relative paths begin at the file's own folder. [Roll out a release](../howto/roll-out-a-release.md) uses it.
"""


def rollout_spec() -> str:
    """Every struct of a specification, in the order in which they are met."""
    found = schema_of_rollouts()["$defs"]
    text = "# The rollout's specification\n\n" + _NOTE.format(source="src/finflow/rollout/*_spec.py")
    text += _SPEC_HEAD
    for name, struct in found.items():
        if "properties" in struct:
            text += _struct(name, struct)
    return text


def _struct(name: str, struct: dict[str, Any]) -> str:
    fields = dict(struct["properties"])
    kind = fields.pop("kind", None)
    title = f"{name}: `kind: {kind['enum'][0]}`" if kind else name
    required = struct.get("required", [])
    rows = [
        (
            f"`{field}`",
            _type(about),
            "required" if field in required else _shown_default(about),
            _about(about),
        )
        for field, about in fields.items()
    ]
    described = inspect.cleandoc(struct.get("description", "")).replace("<", "&lt;")
    table = _table(("field", "is", "default", "means"), rows) if rows else ""
    return f'\n## <a id="{name.lower()}"></a>{title}\n\n{described}\n\n{table}'


def _type(about: dict[str, Any]) -> str:
    """A type in words, with its bounds; structs as links."""
    if "$ref" in about:
        return _referred(about["$ref"].rpartition("/")[2])
    if "anyOf" in about:
        return " or ".join(_type(each) for each in about["anyOf"] if each != {"type": "null"})
    if "enum" in about:
        return " or ".join(f"`{each}`" for each in about["enum"] if each is not None)
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}))}" + _bounds(about)
    if about.get("type") == "object":
        return f"mapping to {_type(about.get('additionalProperties', {}))}"
    return {"number": "number", "integer": "whole number", "boolean": "true or false"}.get(
        about.get("type", ""), "text"
    ) + _bounds(about)


def _referred(name: str) -> str:
    about = schema_of_rollouts()["$defs"][name]
    if "properties" not in about:
        return " or ".join(f"`{each}`" for each in about["enum"])
    kind = about["properties"].get("kind")
    return f"[{kind['enum'][0] if kind else name}](#{name.lower()})"


_BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}",
    "exclusiveMaximum": "below {}", "minItems": "at least {}", "maxItems": "at most {}",
}  # fmt: skip


def _bounds(about: dict[str, Any]) -> str:
    found = [words.format(f"{about[name]:,}") for name, words in _BOUNDS.items() if name in about]
    return f", {', '.join(found)}" if found else ""


def _shown_default(about: dict[str, Any]) -> str:
    value = about.get("default")
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "its own" if isinstance(value, dict | list | tuple) else f"`{value}`"


def _about(about: dict[str, Any]) -> str:
    inner = next((each for each in about.get("anyOf", []) if "description" in each), {})
    return str(about.get("description") or inner.get("description") or "").replace("<", "&lt;")


# --- the linter of schema changes ---------------------------------------------------------------------


def schema_lint() -> str:
    """Our rules, one row each, and what becomes of squawk's."""
    note = _NOTE.format(source="src/finflow/db/lint/rules.py")
    text = "# Rules of the schema linter\n\n" + note + _LINT_HEAD
    text += _table(
        ("rule", "level", "why", "instead"),
        ((f"`{rule.id}`", rule.level, rule.reason, rule.remedy) for rule in RULES.values()),
    )
    gentle = ", ".join(f"`{name}`" for name in sorted(SQUAWK_LEVELS))
    allowed = ", ".join(f"`{name}`" for name in sorted(SQUAWK_IN_CONTRACT))
    return text + _SQUAWK_HEAD.format(gentle=gentle, allowed=allowed)


_LINT_HEAD = """
`finflow db lint` asks these rules of every file, and squawk's. An error makes its exit code 1; a warning and
a note do not. `-- finflow: allow RULE because REASON` above a statement waives a rule for it
([how to](../howto/change-the-schema.md#lint-it)).

"""
_SQUAWK_HEAD = """
## squawk's rules

All of squawk's default rules are asked; its [documentation](https://squawkhq.com/docs/rules) explains them.
They are errors, with two exceptions. What the runner does by itself, and what is taste, is a note, shown with
`--notes`: {gentle}. What a contract is there for is a note in `.contract.sql` files: {allowed}.
"""


# --- links into the code -----------------------------------------------------------------------------

_LINK = re.compile(r"\[`(?P<symbol>[\w.]+)`\]\((?P<path>[./]*src/finflow/[\w./]+\.(?:py|sql))(?:#L\d+)?\)")


def with_lines(text: str, page: Path) -> str:
    """The page with each link named after a symbol leading to the line where the symbol is defined."""

    def found(link: re.Match[str]) -> str:
        line = line_of(link["symbol"], (page.parent / link["path"]).resolve())
        return f"[`{link['symbol']}`]({link['path']}#L{line})"

    return _LINK.sub(found, text)


def line_of(symbol: str, path: Path) -> int:
    """The line that defines a symbol such as `LedgerWriter.submit`. Raises LookupError."""
    text = path.read_text()
    if path.suffix == ".sql":
        for number, line in enumerate(text.splitlines(), 1):
            if re.match(rf"create .*\b{symbol}\b", line):
                return number
        raise LookupError(f"{symbol} is not made in {path.name}")
    nodes: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for name in symbol.split("."):
        node = next((each for each in nodes if name in _names(each)), None)
        if node is None:
            raise LookupError(f"{symbol} is not defined in {path.name}")
        nodes = node.body if isinstance(node, ast.ClassDef) else []
    assert node is not None, "a symbol has a name"
    return node.lineno


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def main() -> None:
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote docs/{name}")  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
