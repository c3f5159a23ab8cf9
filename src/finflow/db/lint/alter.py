"""Our rules about ALTER TABLE, and about what proves that a column is never null."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from finflow.db.lint import tree
from finflow.db.lint.tree import Parsed, SqlFile
from finflow.db.phases import Phase

_TRIGGERS_OFF: Final = ("AT_DisableTrig", "AT_DisableTrigAll", "AT_DisableTrigUser", "AT_DisableRule")


def proofs_in(files: Iterable[SqlFile]) -> set[tuple[str, str]]:
    """Table and column of every CHECK (column IS NOT NULL) that is validated in a file of its own."""
    claimed: dict[tuple[str, str], tuple[str, str]] = {}
    validated: set[tuple[str, str]] = set()
    for file in files:
        for each in file.parsed:
            for table, command in _commands(each):
                if command.subtype.name == "AT_ValidateConstraint":
                    validated.add((table, command.name))
                elif command.subtype.name == "AT_AddConstraint" and command.def_.conname:
                    for column in _not_null(command.def_.raw_expr):
                        claimed[table, command.def_.conname] = (table, column)
    return {column for name, column in claimed.items() if name in validated}


def _not_null(expression: Any) -> Iterator[str]:
    if type(expression).__name__ == "NullTest" and expression.nulltesttype.name == "IS_NOT_NULL":
        yield from tree.column_names(expression, set())
    elif type(expression).__name__ == "BoolExpr" and expression.boolop.name == "AND_EXPR":
        for each in expression.args:
            yield from _not_null(each)


def _commands(each: Parsed) -> Iterator[tuple[str, Any]]:
    if each.kind == "AlterTableStmt" and each.node.objtype.name in ("OBJECT_TABLE", "OBJECT_FOREIGN_TABLE"):
        table = tree.relation_name(each.node.relation)
        for command in each.node.cmds:
            yield table, command


def alterations(
    file: SqlFile, each: Parsed, created: set[str], proofs: set[tuple[str, str]]
) -> Iterator[tuple[str, int, str | None]]:
    """What our rules find in one ALTER TABLE of a table that others use already."""
    added = _added_not_valid(file)
    for table, command in _commands(each):
        if table in created:
            continue
        kind = command.subtype.name
        if kind == "AT_AddColumn":
            rules = _add_column(file.phase, command.def_)
        elif kind == "AT_AddConstraint":
            rules = _add_constraint(command.def_)
        elif kind == "AT_SetNotNull":
            rules = _set_not_null(file.phase, (table, command.name) in proofs)
        elif kind == "AT_ValidateConstraint":
            rules = ["validate-with-add"] if (table, command.name) in added else []
        else:
            rules = _other(file.phase, kind, command)
        for rule in rules:
            yield rule, each.offset, None


def _added_not_valid(file: SqlFile) -> set[tuple[str, str]]:
    return {
        (table, command.def_.conname)
        for each in file.parsed
        for table, command in _commands(each)
        if command.subtype.name == "AT_AddConstraint"
    }


def _add_column(phase: Phase, column: Any) -> list[str]:
    found = tree.constraints(column)
    default = found.get("CONSTR_DEFAULT")
    rewrites = (
        "CONSTR_IDENTITY" in found
        or "CONSTR_GENERATED" in found
        or tree.is_serial(column)
        or (default is not None and tree.is_volatile(default.raw_expr))
    )
    required = ("CONSTR_NOTNULL" in found or "CONSTR_PRIMARY" in found) and not (default or rewrites)
    rules = ["volatile-default"] if rewrites else []
    rules += ["required-column"] if required and phase is not Phase.CONTRACT else []
    rules += ["unproven-foreign-key"] if "CONSTR_FOREIGN" in found else []
    rules += ["unproven-check"] if "CONSTR_CHECK" in found else []
    rules += ["unique-without-index"] if {"CONSTR_UNIQUE", "CONSTR_PRIMARY"} & set(found) else []
    return rules


def _add_constraint(constraint: Any) -> list[str]:
    kind = constraint.contype.name
    if kind == "CONSTR_FOREIGN" and not constraint.skip_validation:
        return ["unproven-foreign-key"]
    if kind in ("CONSTR_CHECK", "CONSTR_NOTNULL") and not constraint.skip_validation:
        return ["unproven-check"]
    if kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION") and not constraint.indexname:
        return ["unique-without-index"]
    return []


def _set_not_null(phase: Phase, proven: bool) -> list[str]:
    rules = [] if phase is Phase.CONTRACT else ["not-null-before-contract"]
    return rules if proven else [*rules, "not-null-unproven"]


def _other(phase: Phase, kind: str, command: Any) -> list[str]:
    if kind == "AT_AlterColumnType":
        return ["type-change"]
    if kind in _TRIGGERS_OFF:
        return ["disabled-trigger"]
    if phase is Phase.CONTRACT:
        return []
    if kind == "AT_DropColumn":
        return ["drop-before-contract"]
    if kind == "AT_ColumnDefault" and command.def_ is None:
        return ["drop-default-before-contract"]
    return []
