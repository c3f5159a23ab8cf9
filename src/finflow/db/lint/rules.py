"""The table of our own rules: what each one is called, how bad it is, why, and what to do instead."""

from typing import Final

import msgspec

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"


class Rule(msgspec.Struct, frozen=True):
    """One rule. `reason` says what goes wrong, `remedy` what does not."""

    id: str
    level: str
    reason: str
    remedy: str


class Finding(msgspec.Struct, frozen=True):
    """One place that breaks a rule. `because` is the reason of whoever has waived it, else None."""

    file: str
    line: int
    column: int
    rule: str
    level: str
    message: str
    remedy: str
    because: str | None = None


_RULES = (
    # Files and phases.
    Rule("file-name", WARNING, "The file is not called NNNN_name.PHASE.sql, so finflow db would not apply it.", "Call it like 0012_add_email.expand.sql."),
    Rule("missing-phase", WARNING, "The file names no phase; it counts as expand.", "Add .expand, .backfill, .verify or .contract before .sql."),
    Rule("number-taken", ERROR, "Two changes have one number, so their order depends on their names.", "Give the younger change the next number."),
    Rule("missing-verify", ERROR, "The change takes something away after a backfill that nothing verifies.", "Add a verify file with counts and checksums of both sides."),
    Rule("syntax-error", ERROR, "PostgreSQL cannot read the file.", "Mend the statement."),
    Rule("transaction-control", ERROR, "BEGIN, COMMIT, ROLLBACK and SAVEPOINT tear the step from its row in the ledger, and a kill in between applies it twice.", "Leave the transaction to the runner."),
    Rule("concurrent-not-alone", ERROR, "CONCURRENTLY cannot run in a transaction, and other statements must.", "Put it into a file of its own, with a named index."),
    # What the old release does not survive.
    Rule("drop-before-contract", ERROR, "What is dropped here is still used by the release that runs.", "Move it into the contract file of this change."),
    Rule("rename-before-contract", ERROR, "The release that runs knows the old name only.", "Add the new one beside it, write both, backfill, and drop the old one in the contract."),
    Rule("type-change", ERROR, "Changing a type rewrites the table under an exclusive lock, and the release that runs expects the old type.", "Add a column of the new type, backfill it, and drop the old one in the contract."),
    Rule("not-null-before-contract", ERROR, "The release that runs may still write NULL.", "Add CHECK (column IS NOT NULL) NOT VALID, validate it in another file, and set NOT NULL in the contract."),
    Rule("not-null-unproven", ERROR, "SET NOT NULL reads the whole table under an exclusive lock unless a validated CHECK proves it.", "Add CHECK (column IS NOT NULL) NOT VALID and VALIDATE CONSTRAINT in files before this one."),
    Rule("required-column", ERROR, "The release that runs does not fill the new column, so its inserts fail.", "Give it a constant default, or let it be NULL until the contract."),
    Rule("drop-default-before-contract", ERROR, "The release that runs relies on the default for what it does not fill.", "Move it into the contract file of this change."),
    Rule("delete-before-contract", ERROR, "Rows are deleted that the release that runs may read.", "Delete them in the contract, in a statement with a key."),
    # Data statements.
    Rule("unkeyed-insert", ERROR, "Run twice, it inserts its rows twice: five instances that start together did just that.", "Add ON CONFLICT with a target, or NOT EXISTS, or make it a keyed backfill."),
    Rule("unkeyed-update", ERROR, "The new value is made from the old one, so a second run changes it again.", "Make it a keyed backfill, whose batches commit with their progress, or set a value that does not depend on itself."),
    Rule("unkeyed-delete", ERROR, "The statement says of no row that it is the one to go.", "Name the rows in WHERE by a key or a condition that stays true."),
    Rule("bulk-data", ERROR, "The statement writes a whole table in one transaction: its rows stay locked, replicas fall behind, a kill loses all.", "Make it a keyed backfill."),
    Rule("truncate", ERROR, "TRUNCATE takes an exclusive lock, and other snapshots lose the rows at once.", "Delete in keyed batches, or drop the table in the contract."),
    Rule("replication-role", ERROR, "session_replication_role switches triggers and foreign keys off for all that follows.", "Write rows that the constraints accept."),
    Rule("disabled-trigger", ERROR, "While triggers are off, other sessions write unchecked too.", "Write rows that the triggers accept."),
    Rule("session-setting", ERROR, "SET without LOCAL outlives the step, behind a pooler in somebody else's session.", "Say SET LOCAL."),
    # Backfills and verification.
    Rule("backfill-unkeyed", ERROR, "The backfill declares no key, or a statement does not keep to the batch's range.", "Begin with -- finflow: table=T key=(A) batch=1000 and say WHERE A BETWEEN $1 AND $2."),
    Rule("backfill-not-data", ERROR, "A backfill would repeat this statement in every batch.", "Put it into the expand file."),
    Rule("verify-writes", ERROR, "A verify file only asks.", "Use SELECT."),
    # Locks.
    Rule("volatile-default", ERROR, "A default that differs from row to row rewrites the table under an exclusive lock.", "Add the column without it, set the default in another statement, and backfill."),
    Rule("blocking-index", ERROR, "CREATE INDEX keeps every writer out while it reads the table.", "CREATE INDEX CONCURRENTLY in a file of its own."),
    Rule("blocking-drop-index", ERROR, "DROP INDEX locks the table out while it waits for its readers.", "DROP INDEX CONCURRENTLY in a file of its own."),
    Rule("blocking-reindex", ERROR, "REINDEX keeps every writer out.", "REINDEX CONCURRENTLY in a file of its own."),
    Rule("blocking-refresh", ERROR, "REFRESH MATERIALIZED VIEW keeps every reader out.", "REFRESH MATERIALIZED VIEW CONCURRENTLY, outside of migrations."),
    Rule("unproven-foreign-key", ERROR, "A foreign key is checked against every row while both tables are locked for writers.", "Add it NOT VALID, and VALIDATE CONSTRAINT in another file."),
    Rule("unproven-check", ERROR, "The constraint is checked against every row under an exclusive lock.", "Add it NOT VALID, and VALIDATE CONSTRAINT in another file."),
    Rule("validate-with-add", ERROR, "In one transaction the validation keeps the lock that NOT VALID was to avoid.", "VALIDATE CONSTRAINT in another file."),
    Rule("unique-without-index", ERROR, "The index of the constraint is built under an exclusive lock.", "Build a unique index concurrently, then ADD CONSTRAINT ... USING INDEX."),
    Rule("many-tables", ERROR, "The lock on the first table is kept while the step waits for the second, and two releases can lock each other out.", "One file for each table."),
    Rule("explicit-lock", ERROR, "LOCK TABLE keeps others out for as long as the step takes.", "Leave it out; a step that needs it is no expand step."),
    Rule("rewrites-table", ERROR, "VACUUM FULL and CLUSTER rewrite the table under an exclusive lock.", "Leave it out of migrations."),
    Rule("drop-cascade", ERROR, "CASCADE drops what the file does not name.", "Name everything that goes."),
    Rule("opaque-block", WARNING, "The linter sees what a DO block writes out, not what it puts together or on which condition.", "Write plain statements, or waive it with a reason."),
    # Waivers.
    Rule("waiver-malformed", ERROR, "A waiver names a rule and a reason, or it waives nothing.", "Write -- finflow: allow RULE because REASON above the statement."),
    Rule("waiver-unused", WARNING, "Nothing is found here that the waiver would allow.", "Take it away."),
)  # fmt: skip

RULES: Final[dict[str, Rule]] = {rule.id: rule for rule in _RULES}

# Rules of squawk against taking away: a contract is there to do just that, after its checks.
SQUAWK_IN_CONTRACT: Final = frozenset(
    ("ban-drop-column", "ban-drop-table", "ban-drop-not-null", "renaming-column", "renaming-table")
)

# Rules of squawk that the runner itself keeps to, or that are taste: shown, but no reason to say no.
SQUAWK_LEVELS: Final[dict[str, str]] = {
    "require-lock-timeout": NOTE,
    "require-statement-timeout": NOTE,
    "prefer-robust-stmts": NOTE,
    "prefer-bigint-over-int": NOTE,
    "prefer-bigint-over-smallint": NOTE,
    "prefer-identity": NOTE,
    "prefer-text-field": NOTE,
    "prefer-timestamptz": NOTE,
    "prefer-repack": NOTE,
    "require-table-schema": NOTE,
    "ban-char-field": NOTE,
    "identifier-too-long": NOTE,
}
