"""Folders of a change, processes that run its phases and can be killed, and what a schema looks like."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

# One phase in a process of its own. It says what it did; its sessions are called by its name.
_RUNNER = """
import asyncio, json, sys
from pathlib import Path
from finflow.db.change import SchemaChange
from finflow.db.contracting import Permit
from finflow.db.throttle import Pace

async def main(url, folder, verb):
    change = SchemaChange(url, Path(folder), pace=Pace(share=0.5, batch_ms=4), lease_s=0.5)
    arguments = [Permit(at_full=True, ignored=("test",))] if verb == "contract" else []
    print(json.dumps(await getattr(change, verb)(*arguments)))

asyncio.run(main(*sys.argv[1:]))
"""

# Columns, indexes and constraints, as text: two schemas are equal when these are.
_SHAPE = """
SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || ' ' || a.attnotnull || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS line
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT pg_get_indexdef(i.indexrelid) || ' valid ' || i.indisvalid FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
ORDER BY line"""


def write(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files, their `.sql` left out."""
    folder.mkdir(exist_ok=True)
    for name, sql in files.items():
        (folder / f"{name}.sql").write_text(sql)
    return folder


async def shape(connection: Any) -> list[str]:
    """The schema as lines."""
    return [row["line"] for row in await connection.fetch(_SHAPE)]


async def start(url: str, folder: Path, verb: str) -> asyncio.subprocess.Process:
    """A process that runs one phase."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RUNNER, url, str(folder), verb, stdout=asyncio.subprocess.PIPE
    )


async def finished(process: asyncio.subprocess.Process) -> list[str]:
    """What the process did, once it has ended well."""
    output, _ = await process.communicate()
    assert process.returncode == 0
    done: list[str] = json.loads(output)
    return done
