"""Which lock each statement takes on which table, as PostgreSQL's manual has it."""

from collections.abc import Iterator
from typing import Any, Final

from finflow.db.lint import tree
from finflow.db.lint.tree import Parsed

ACCESS_EXCLUSIVE: Final = "ACCESS EXCLUSIVE"
SHARE_ROW_EXCLUSIVE: Final = "SHARE ROW EXCLUSIVE"
SHARE: Final = "SHARE"
SHARE_UPDATE_EXCLUSIVE: Final = "SHARE UPDATE EXCLUSIVE"
ROW_EXCLUSIVE: Final = "ROW EXCLUSIVE"
ACCESS_SHARE: Final = "ACCESS SHARE"

# From the strongest on, and what a session that only reads or writes rows has to wait for.
ORDER: Final = (
    ACCESS_EXCLUSIVE, SHARE_ROW_EXCLUSIVE, SHARE, SHARE_UPDATE_EXCLUSIVE, ROW_EXCLUSIVE, ACCESS_SHARE
)  # fmt: skip
BLOCKS: Final = {
    ACCESS_EXCLUSIVE: "reads and writes",
    SHARE_ROW_EXCLUSIVE: "writes",
    SHARE: "writes",
}
_ALTER: Final = {
    "AT_ValidateConstraint": SHARE_UPDATE_EXCLUSIVE,
    "AT_SetStatistics": SHARE_UPDATE_EXCLUSIVE,
    "AT_SetOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_SetRelOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetRelOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ClusterOn": SHARE_UPDATE_EXCLUSIVE,
    "AT_AttachPartition": SHARE_UPDATE_EXCLUSIVE,
    "AT_EnableTrig": SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigAll": SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrig": SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigAll": SHARE_ROW_EXCLUSIVE,
}
_WHOLE: Final = {
    "RenameStmt": ACCESS_EXCLUSIVE,
    "ClusterStmt": ACCESS_EXCLUSIVE,
    "CreateTrigStmt": SHARE_ROW_EXCLUSIVE,
    "RuleStmt": ACCESS_EXCLUSIVE,
}


def locks(each: Parsed) -> list[tuple[str, str]]:
    """Lock and table, strongest first; a table that the statement makes itself is not among them."""
    found: dict[str, str] = {}
    for lock, table in _locks(each):
        if table not in found or ORDER.index(lock) < ORDER.index(found[table]):
            found[table] = lock
    return sorted(((lock, table) for table, lock in found.items()), key=lambda one: ORDER.index(one[0]))


def _locks(each: Parsed) -> Iterator[tuple[str, str]]:
    node, kind = each.node, each.kind
    if kind == "AlterTableStmt":
        yield from _alter(node)
    elif kind == "IndexStmt":
        lock = SHARE_UPDATE_EXCLUSIVE if node.concurrent else SHARE
        yield lock, tree.relation_name(node.relation)
    elif kind == "DropStmt":
        lock = SHARE_UPDATE_EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE
        yield from ((lock, _name(each_name)) for each_name in node.objects)
    elif kind == "TruncateStmt":
        yield from ((ACCESS_EXCLUSIVE, tree.relation_name(one)) for one in node.relations)
    elif kind == "CreateStmt":
        yield from _referenced(node)
    elif kind == "CreatePolicyStmt":
        yield ACCESS_EXCLUSIVE, tree.relation_name(node.table)
    elif kind in _WHOLE and node.relation is not None:
        yield _WHOLE[kind], tree.relation_name(node.relation)
    elif kind in ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "SelectStmt"):
        yield from _data(node)


def _name(name: Any) -> str:
    parts = name if isinstance(name, tuple | list) else getattr(name, "names", (name,))
    return ".".join(str(part.sval) for part in parts if hasattr(part, "sval"))


def _alter(node: Any) -> Iterator[tuple[str, str]]:
    table = tree.relation_name(node.relation)
    for command in node.cmds:
        kind = command.subtype.name
        definition = command.def_
        if kind == "AT_AddConstraint" and definition.contype.name == "CONSTR_FOREIGN":
            yield SHARE_ROW_EXCLUSIVE, table
        else:
            yield _ALTER.get(kind, ACCESS_EXCLUSIVE), table
        yield from _referenced(definition)


def _referenced(node: Any) -> Iterator[tuple[str, str]]:
    """The tables that new foreign keys point to."""
    for constraint in tree.nodes(node, "Constraint"):
        if constraint.pktable is not None:
            yield SHARE_ROW_EXCLUSIVE, tree.relation_name(constraint.pktable)


def _data(node: Any) -> Iterator[tuple[str, str]]:
    for each in tree.nodes(node, "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"):
        yield ROW_EXCLUSIVE, tree.relation_name(each.relation)
    common = {each.ctename for each in tree.nodes(node, "CommonTableExpr")}
    for each in tree.nodes(node, "RangeVar"):
        if each.relname not in common:
            yield ACCESS_SHARE, tree.relation_name(each)
