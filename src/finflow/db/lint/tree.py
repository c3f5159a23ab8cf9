"""A file of SQL as the parser of PostgreSQL sees it, and small questions to its statements."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from finflow.db.phases import FILE_NAME, Phase
from finflow.db.sql_text import place
from finflow.kernel.errors import FinFlowError

# A default of these is one value for the whole statement, so no row is rewritten for it.
_STEADY: Final = frozenset(
    "now transaction_timestamp statement_timestamp current_setting current_schema current_user session_user"  # noqa: SIM905 - forty words read as words
    " lower upper length concat concat_ws md5 sha256 decode encode trim btrim ltrim rtrim replace format"
    " date_trunc make_date make_time make_timestamp make_timestamptz make_interval to_timestamp to_date"
    " timezone jsonb_build_object jsonb_build_array json_build_object json_build_array to_json to_jsonb"
    " array_fill abs floor ceil round int4range int8range numrange daterange tsrange tstzrange".split()
)
# Twice is once: what these give does not change when they are given it again.
_IDEMPOTENT: Final = frozenset(("lower", "upper", "btrim", "ltrim", "rtrim", "abs", "trim", "initcap"))
_SERIAL: Final = frozenset(("serial", "bigserial", "smallserial", "serial4", "serial8", "serial2"))


class Parsed(msgspec.Struct, frozen=True):
    """One statement: where it begins, in characters, and its tree."""

    offset: int
    node: Any

    @property
    def kind(self) -> str:
        """The name of the tree's class: AlterTableStmt and the like."""
        return type(self.node).__name__


class SqlFile(msgspec.Struct, frozen=True):
    """A file and its statements; `error` is where and why the parser gave up."""

    name: str
    text: str
    phase: Phase
    parsed: list[Parsed]
    error: tuple[int, str] | None = None

    def where(self, offset: int) -> tuple[int, int]:
        """Line and column, from one."""
        return place(self.text, offset)

    @property
    def created(self) -> set[str]:
        """The tables that this file makes: nobody else uses them yet."""
        return {
            relation_name(each.node.relation)
            for each in self.parsed
            if each.kind == "CreateStmt" and not each.node.if_not_exists
        } | {relation_name(each.node.into.rel) for each in self.parsed if each.kind == "CreateTableAsStmt"}


def read(name: str, text: str) -> SqlFile:
    """Parses a file. Raises extra_missing where there is no parser."""
    try:
        from pglast import parse_sql
        from pglast.parser import ParseError
    except ImportError as error:
        raise FinFlowError("extra_missing", "pip install 'finflow[schema]' for pglast and squawk") from error
    match = FILE_NAME.fullmatch(name.rpartition("/")[2])
    phase = Phase((match and match["phase"]) or Phase.EXPAND)
    try:
        raw = parse_sql(text)
    except ParseError as error:
        offset = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
        return SqlFile(name, text, phase, [], (min(offset, len(text)), str(error.args[0])))
    return SqlFile(name, text, phase, [Parsed(each.stmt_location or 0, each.stmt) for each in raw])


def within_block(block: Any) -> list[Any]:
    """The statements that a DO block in PL/pgSQL writes out; what it puts together itself stays unseen."""
    from pglast import parse_plpgsql, parse_sql
    from pglast.parser import ParseError

    body = next((each.arg.sval for each in block.args if each.defname == "as"), "")
    language = next((each.arg.sval for each in block.args if each.defname == "language"), "plpgsql")
    tag = "$finflow_block$"
    if language != "plpgsql" or tag in body:
        return []
    found: list[Any] = []
    try:
        tree = parse_plpgsql(f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS {tag}{body}{tag}")
        for query in _queries(tree):
            found += [each.stmt for each in parse_sql(query)]
    except (ParseError, ValueError):
        # PostgreSQL compiles the block when it runs it; what this parser lacks is no error of the file.
        return found
    return found


def _queries(tree: Any) -> Iterator[str]:
    """The SQL of every statement of a PL/pgSQL function's tree, expressions left out."""
    if isinstance(tree, list):
        for each in tree:
            yield from _queries(each)
    elif isinstance(tree, dict):
        if tree.get("parseMode") == 0 and isinstance(tree.get("query"), str):
            yield tree["query"]
        for each in tree.values():
            yield from _queries(each)


def relation_name(relation: Any) -> str:
    """schema.table, or table alone where no schema is written."""
    return f"{relation.schemaname}.{relation.relname}" if relation.schemaname else str(relation.relname)


def walk(node: Any) -> Iterator[Any]:
    """The node and all nodes below it."""
    waiting = [node]
    while waiting:
        this = waiting.pop()
        if isinstance(this, tuple | list):
            waiting.extend(this)
        elif type(this).__module__ == "pglast.ast":
            yield this
            waiting.extend(getattr(this, name, None) for name in this.__slots__)


def nodes(node: Any, *kinds: str) -> list[Any]:
    """The nodes of these classes below a node, itself among them."""
    return [each for each in walk(node) if type(each).__name__ in kinds]


def called(call: Any) -> str:
    """The name of the function that is called, without its schema."""
    return str(call.funcname[-1].sval)


def is_volatile(expression: Any) -> bool:
    """Whether a default may differ from row to row: what we do not know, may."""
    return any(called(call) not in _STEADY for call in nodes(expression, "FuncCall"))


def is_serial(column: Any) -> bool:
    """Whether the column's type brings a sequence."""
    return str(column.typeName.names[-1].sval) in _SERIAL


def constraints(column: Any) -> dict[str, Any]:
    """The constraints of a column's definition, by the name of their kind."""
    return {each.contype.name: each for each in column.constraints or ()}


def parameters(node: Any) -> set[int]:
    """The numbers of the parameters that a statement uses: 1 for $1."""
    return {each.number for each in nodes(node, "ParamRef")}


def column_names(expression: Any, target: set[str]) -> set[str]:
    """The columns of the target that an expression reads; one without a table may be the target's."""
    found = set()
    for reference in nodes(expression, "ColumnRef"):
        words = [getattr(field, "sval", "*") for field in reference.fields]
        if len(words) == 1 or words[-2] in target:
            found.add(words[-1])
    return found


def feeds_itself(update: Any) -> bool:
    """Whether a second run would find other values than the first: a column is set from one that is set."""
    return _feeds_itself(update.relation, update.targetList)


def _feeds_itself(relation: Any, assignments: Any) -> bool:
    target = {relation.relname, relation.alias.aliasname if relation.alias else relation.relname}
    columns = {each.name for each in assignments}
    for each in assignments:
        read_columns = column_names(each.val, target) & columns
        if read_columns and not (read_columns == {each.name} and _is_idempotent(each.val, each.name)):
            return True
    return False


def _is_idempotent(expression: Any, column: str) -> bool:
    kind = type(expression).__name__
    if kind == "ColumnRef":
        return True
    if kind == "FuncCall":
        return (
            called(expression) in _IDEMPOTENT
            and len(expression.args or ()) == 1
            and _is_idempotent(expression.args[0], column)
        )
    if kind == "CoalesceExpr":
        first, *others = expression.args
        return _is_idempotent(first, column) and not any(column in column_names(o, set()) for o in others)
    return False


def is_keyed_insert(insert: Any) -> bool:
    """Whether a second run finds that its rows are there: by a conflict's target, or by asking first."""
    conflict = insert.onConflictClause
    if conflict is not None:
        return conflict.infer is not None
    selects = nodes(insert.selectStmt, "SelectStmt")
    return any(_excludes(each, relation_name(insert.relation)) for each in selects)


def conflict_feeds_itself(insert: Any) -> bool:
    """Whether ON CONFLICT DO UPDATE makes the new value from the old one."""
    conflict = insert.onConflictClause
    return bool(conflict and conflict.targetList) and _feeds_itself(insert.relation, conflict.targetList)


def _excludes(select: Any, table: str) -> bool:
    """Whether a query leaves out what the table has already."""
    if select.op is not None and select.op.name == "SETOP_EXCEPT":
        return _reads(select.rarg, table)
    for each in nodes(select.whereClause, "BoolExpr"):
        if each.boolop.name == "NOT_EXPR" and any(_reads(sub, table) for sub in nodes(each.args, "SubLink")):
            return True
    outer = [each for each in nodes(select.fromClause, "JoinExpr") if each.jointype.name == "JOIN_LEFT"]
    tests = nodes(select.whereClause, "NullTest")
    return any(_reads(join.rarg, table) for join in outer) and any(
        test.nulltesttype.name == "IS_NULL" for test in tests
    )


def _reads(node: Any, table: str) -> bool:
    return any(relation_name(each) == table for each in nodes(node, "RangeVar"))
