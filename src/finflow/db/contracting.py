"""When something may be taken away from the schema: never while the old release may still need it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.telemetry.redaction import redact

QUIET_S: Final = 3600.0

# Sessions that were there before the change was: what runs in them was not made for it. A session that names
# the old release is one of it, however young. Ours is not asked, nor are the server's own processes.
_OLD_SESSIONS: Final = """
SELECT pid, application_name, backend_start, coalesce(client_addr::text, 'local') AS client
  FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND application_name <> ALL ($3::text[])
   AND (backend_start < $1 OR ($2 <> '' AND strpos(application_name, $2) > 0))
 ORDER BY backend_start LIMIT 20"""
# Who may not see others' sessions sees rows without a name; then nothing can be told.
_SEES_ALL: Final = """
SELECT pg_has_role(current_user, 'pg_read_all_stats', 'member')
    OR NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                      AND usename IS DISTINCT FROM current_user)"""


class Permit(msgspec.Struct, frozen=True):
    """Why a contract is thought to be due.

    `full_since`: since when the rollout has all traffic, or None. `at_full`: a person says so. `release`:
    what application_name says of the old release's sessions; `ignored`: names of sessions that do no harm.
    """

    full_since: datetime | None = None
    at_full: bool = False
    quiet_s: float = QUIET_S
    release: str = ""
    ignored: tuple[str, ...] = ()


class OldSession(msgspec.Struct, frozen=True):
    """A session that the old release may own."""

    pid: int
    application_name: str
    since: datetime
    client: str


def check_time(permit: Permit, now: datetime) -> None:
    """Raises contract_too_early."""
    if permit.at_full:
        return
    if permit.full_since is None:
        raise FinFlowError("contract_too_early", "No rollout says that the new release has all traffic.")
    left_s = permit.quiet_s - (now - permit.full_since).total_seconds()
    if left_s > 0:
        since = permit.full_since.astimezone(UTC).isoformat(timespec="seconds")
        detail = (
            f"All traffic since {since}; the quiet period of {permit.quiet_s:g} s ends in {left_s:.0f} s."
        )
        raise FinFlowError("contract_too_early", detail)


async def old_sessions(
    connection: "asyncpg.Connection[Any]", permit: Permit, expanded_at: datetime
) -> list[OldSession]:
    """Sessions of before the change, or of the old release by their name."""
    async with connection.transaction():
        rows = await connection.fetch(_OLD_SESSIONS, expanded_at, permit.release, list(permit.ignored))
    return [
        OldSession(row["pid"], redact(row["application_name"]), row["backend_start"], row["client"])
        for row in rows
    ]


async def sees_sessions(connection: "asyncpg.Connection[Any]") -> bool:
    """Whether this user can tell whose sessions there are."""
    async with connection.transaction():
        return bool(await connection.fetchval(_SEES_ALL))


async def server_time(connection: "asyncpg.Connection[Any]") -> datetime:
    """The server's clock; the only one that all who ask agree on."""
    async with connection.transaction():
        now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now


def check_sessions(sessions: Sequence[OldSession]) -> None:
    """Raises release_still_connected."""
    if sessions:
        shown = ", ".join(f"{each.application_name or '(unnamed)'} (pid {each.pid})" for each in sessions[:5])
        raise FinFlowError("release_still_connected", f"{len(sessions)} sessions: {shown}.")
