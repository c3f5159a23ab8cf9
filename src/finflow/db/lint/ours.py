"""Our own rules, asked of each statement: what the running release does not survive, what repeats itself."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from finflow.db.lint import tree
from finflow.db.lint.alter import alterations
from finflow.db.lint.tree import Parsed, SqlFile
from finflow.db.phases import Phase, keyed
from finflow.kernel.errors import FinFlowError

# A rule's id, the statement's place, and words of this case where there are better ones than the rule's.
Hit = tuple[str, int, str | None]
Proofs = set[tuple[str, str]]

_DATA: Final = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")
_NOT_LOCAL: Final = ("VAR_SET_VALUE", "VAR_SET_DEFAULT", "VAR_SET_CURRENT", "VAR_SET_MULTI", "VAR_RESET")


def check(file: SqlFile, proofs: Proofs) -> Iterator[Hit]:
    """Everything that our rules find in one file. `proofs`: columns that a validated CHECK keeps not null."""
    if file.error is not None:
        yield "syntax-error", file.error[0], file.error[1]
        return
    created = file.created
    for each in [*file.parsed, *_in_blocks(file)]:
        yield from _statement(file, each, created)
        yield from alterations(file, each, created, proofs)
    yield from _together(file, created)
    if file.phase is Phase.BACKFILL:
        yield from _backfill(file)


def _in_blocks(file: SqlFile) -> list[Parsed]:
    """The statements of DO blocks, each at the place of its block."""
    blocks = [each for each in file.parsed if each.kind == "DoStmt"]
    return [Parsed(each.offset, one) for each in blocks for one in tree.within_block(each.node)]


def _statement(file: SqlFile, each: Parsed, created: set[str]) -> Iterator[Hit]:
    for rule, words in _data(file, each.node, created):
        yield rule, each.offset, words
    handler = _HANDLERS.get(each.kind)
    if handler is not None:
        for rule in handler(file, each.node, created):
            yield rule, each.offset, None
    if file.phase is Phase.VERIFY and (each.kind != "SelectStmt" or tree.nodes(each.node, *_DATA)):
        yield "verify-writes", each.offset, None


# --- data statements -----------------------------------------------------------------------------------


def _data(file: SqlFile, node: Any, created: set[str]) -> Iterator[tuple[str, str | None]]:
    in_batches = file.phase is Phase.BACKFILL and tree.parameters(node)
    for each in tree.nodes(node, *_DATA):
        kind = type(each).__name__
        if not in_batches:
            yield from _unkeyed(kind, each, created)
            yield from _bulk(file, kind, each, created)
        if kind == "DeleteStmt" and file.phase is Phase.EXPAND:
            yield (
                "delete-before-contract",
                f"Rows of {each.relation.relname} are deleted before the contract.",
            )


def _unkeyed(kind: str, each: Any, created: set[str]) -> Iterator[tuple[str, str | None]]:
    table = tree.relation_name(each.relation)
    if kind == "InsertStmt":
        values = each.selectStmt is not None and each.selectStmt.valuesLists
        if not tree.is_keyed_insert(each) and not (values and table in created):
            yield "unkeyed-insert", f"INSERT INTO {table} inserts its rows again when it runs again."
        if tree.conflict_feeds_itself(each):
            yield "unkeyed-update", f"ON CONFLICT makes new values of {table} from the old ones."
    elif kind == "UpdateStmt" and tree.feeds_itself(each):
        yield (
            "unkeyed-update",
            f"UPDATE {table} makes a new value from the old one: a second run changes it again.",
        )
    elif kind == "DeleteStmt":
        physical = {"ctid"} & tree.column_names(each.whereClause, {each.relation.relname})
        if each.whereClause is None or physical:
            yield "unkeyed-delete", None


def _bulk(file: SqlFile, kind: str, each: Any, created: set[str]) -> Iterator[tuple[str, str | None]]:
    """Whole tables written at once: an update of everything, or what another table holds copied over."""
    if file.phase is Phase.VERIFY:
        return
    table = tree.relation_name(each.relation)
    if kind == "UpdateStmt" and each.whereClause is None and table not in created:
        yield "bulk-data", f"UPDATE writes every row of {table} in one transaction."
    if kind == "InsertStmt" and each.selectStmt is not None:
        sources = {tree.relation_name(one) for one in tree.nodes(each.selectStmt.fromClause, "RangeVar")}
        if sources - created and not each.selectStmt.limitCount and each.selectStmt.whereClause is None:
            yield "bulk-data", f"INSERT copies {', '.join(sorted(sources))} whole, in one transaction."


def _backfill(file: SqlFile) -> Iterator[Hit]:
    try:
        declared = keyed(file.name, file.text)
    except FinFlowError as error:
        yield "backfill-unkeyed", 0, error.detail
        return
    wanted = set(range(1, 2 * len(declared.key) + 1))
    for each in file.parsed:
        if each.kind not in _DATA and not (each.kind == "SelectStmt" and tree.nodes(each.node, *_DATA)):
            yield "backfill-not-data", each.offset, None
        elif tree.parameters(each.node) != wanted:
            numbers = ", ".join(f"${number}" for number in sorted(wanted))
            yield "backfill-unkeyed", each.offset, f"The statement has to use {numbers}, and no other."


# --- what stands in one file together --------------------------------------------------------------------


def _together(file: SqlFile, created: set[str]) -> Iterator[Hit]:
    concurrent = [each for each in file.parsed if is_concurrent(each)]
    if concurrent and len(concurrent) < len(file.parsed):
        yield "concurrent-not-alone", concurrent[0].offset, None
    for each in concurrent:
        if each.kind == "IndexStmt" and not each.node.idxname:
            yield "concurrent-not-alone", each.offset, "An index without a name cannot be found after a kill."
    locked: set[str] = set()
    for each in file.parsed:
        if each.kind == "AlterTableStmt" and each.node.objtype.name == "OBJECT_TABLE":
            table = tree.relation_name(each.node.relation)
            if locked and table not in locked | created:
                yield (
                    "many-tables",
                    each.offset,
                    f"{', '.join(sorted(locked))} stays locked while this waits.",
                )
            locked |= {table} - created


def is_concurrent(each: Parsed) -> bool:
    """Whether the statement is one of CONCURRENTLY."""
    if each.kind == "ReindexStmt":
        return any(option.defname == "concurrently" for option in each.node.params or ())
    return each.kind in ("IndexStmt", "DropStmt") and bool(each.node.concurrent)


# --- statements by their kind ----------------------------------------------------------------------------


def _transaction(_file: SqlFile, _node: Any, _created: set[str]) -> list[str]:
    return ["transaction-control"]


def _drop(file: SqlFile, node: Any, created: set[str]) -> list[str]:
    found = []
    kind = node.removeType.name
    if kind == "OBJECT_INDEX":
        found += [] if node.concurrent else ["blocking-drop-index"]
    elif file.phase is not Phase.CONTRACT and not _all_ours(node, created):
        found.append("drop-before-contract")
    if node.behavior.name == "DROP_CASCADE":
        found.append("drop-cascade")
    return found


def _all_ours(node: Any, created: set[str]) -> bool:
    """Whether only tables go that the same file made."""
    if node.removeType.name != "OBJECT_TABLE":
        # A trigger, a policy or a rule that is replaced has no reader of its own.
        return node.removeType.name in ("OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE")
    return all(".".join(part.sval for part in name) in created for name in node.objects)


def _rename(file: SqlFile, node: Any, created: set[str]) -> list[str]:
    harmless = node.renameType.name in ("OBJECT_INDEX", "OBJECT_TABCONSTRAINT", "OBJECT_TRIGGER")
    new = node.relation is not None and tree.relation_name(node.relation) in created
    return [] if harmless or new or file.phase is Phase.CONTRACT else ["rename-before-contract"]


def _enum(file: SqlFile, node: Any, _created: set[str]) -> list[str]:
    return ["rename-before-contract"] if node.oldVal and file.phase is not Phase.CONTRACT else []


def _schema(file: SqlFile, _node: Any, _created: set[str]) -> list[str]:
    return [] if file.phase is Phase.CONTRACT else ["rename-before-contract"]


def _index(_file: SqlFile, node: Any, created: set[str]) -> list[str]:
    blocks = not node.concurrent and tree.relation_name(node.relation) not in created
    return ["blocking-index"] if blocks else []


def _reindex(_file: SqlFile, node: Any, _created: set[str]) -> list[str]:
    concurrent = any(option.defname == "concurrently" for option in node.params or ())
    return [] if concurrent else ["blocking-reindex"]


def _set(_file: SqlFile, node: Any, _created: set[str]) -> list[str]:
    if (node.name or "").lower() == "session_replication_role":
        return ["replication-role"]
    return [] if node.is_local or node.kind.name not in _NOT_LOCAL else ["session-setting"]


def _copy(_file: SqlFile, node: Any, _created: set[str]) -> list[str]:
    return ["unkeyed-insert"] if node.is_from else []


def _vacuum(_file: SqlFile, node: Any, _created: set[str]) -> list[str]:
    return ["rewrites-table"] if any(each.defname == "full" for each in node.options or ()) else []


def _refresh(_file: SqlFile, node: Any, _created: set[str]) -> list[str]:
    return [] if node.concurrent else ["blocking-refresh"]


_HANDLERS: Final[dict[str, Callable[[SqlFile, Any, set[str]], list[str]]]] = {
    "TransactionStmt": _transaction,
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "AlterEnumStmt": _enum,
    "AlterObjectSchemaStmt": _schema,
    "IndexStmt": _index,
    "ReindexStmt": _reindex,
    "VariableSetStmt": _set,
    "CopyStmt": _copy,
    "VacuumStmt": _vacuum,
    "ClusterStmt": lambda *_: ["rewrites-table"],
    "RefreshMatViewStmt": _refresh,
    "TruncateStmt": lambda *_: ["truncate"],
    "LockStmt": lambda *_: ["explicit-lock"],
    "DoStmt": lambda *_: ["opaque-block"],
}
