"""What a batch does after the database failed it: it is tried again, or its callers are told."""

from typing import Final

import asyncpg

from finflow.kernel.errors import FinFlowError

MAX_KEY_COLLISIONS: Final = 3

TRY_AGAIN: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What the driver says of a connection that was lost in the middle of a COPY.
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    OSError,
    TimeoutError,
)

# What the server says of a statement that it did not commit, for certain.
STATEMENT_FAILED: Final = (asyncpg.DiskFullError, asyncpg.IntegrityConstraintViolationError)


def final_answer(failure: Exception, sent: bool, collisions: int, late: bool) -> Exception | None:
    """What the callers are told, or None where trying again can help."""
    # After a COMMIT without an answer, a full disk is no answer either: try until it becomes one.
    if isinstance(failure, asyncpg.DiskFullError) and not sent:
        return FinFlowError("database_full", str(failure))
    if collisions > MAX_KEY_COLLISIONS:
        return failure
    if late:
        return FinFlowError("outcome_unknown" if sent else "database_unreachable", repr(failure))
    return None
