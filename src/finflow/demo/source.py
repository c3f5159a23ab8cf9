"""Where a demonstration's history comes from: a named file, the shared bank data, or the generator."""

import itertools
from collections.abc import Mapping as Environment
from pathlib import Path
from typing import Final

import msgspec

from finflow.imports import mapping as mappings
from finflow.kernel.errors import FinFlowError
from finflow.workload.model import HEADER, generate, to_line

SHARED_DATA: Final = "FINFLOW_SHARED_DATA"
_PACKAGE = Path(__file__).resolve().parents[1]
_REPOSITORY = _PACKAGE.parents[1]
_GENERATED_ROWS = 20_000
_SEED, _ACCOUNTS, _DAYS = 1, 200, 3_650


class Source(msgspec.Struct, frozen=True):
    """A file, what its columns mean, and a sentence that says what it is."""

    path: Path
    mapping: mappings.Mapping
    title: str


def shared_bank_history(environ: Environment[str, str]) -> Path | None:
    """The shared bank history, where there is one: in FINFLOW_SHARED_DATA, or beside the repository."""
    folders = (environ.get(SHARED_DATA), _REPOSITORY.parent / "shared" / "data")
    files = (Path(folder) / "berka" / "trans.asc" for folder in folders if folder)
    return next((file for file in files if file.is_file()), None)


def example_mapping(name: str) -> mappings.Mapping:
    """A mapping of examples/, from the repository or from inside the installed package."""
    for folder in (_PACKAGE / "examples", _REPOSITORY / "examples"):
        file = folder / f"{name}.toml"
        if file.is_file():
            return mappings.parse(file.read_text(encoding="utf-8"))
    raise FinFlowError("file_unreadable", f"examples/{name}.toml is neither in the package nor beside it")


def find(file: str | None, rows: int | None, environ: Environment[str, str], folder: Path) -> Source:
    """The history to replay; a generated one is written to `folder`. `file` is read like the bank history."""
    if file is not None:
        return Source(Path(file), example_mapping("berka"), file)
    shared = shared_bank_history(environ)
    if shared is not None:
        return Source(shared, example_mapping("berka"), "a Czech bank, from 1993 (PKDD'99)")
    return _generated(folder / "generated.csv", rows or _GENERATED_ROWS)


def _generated(path: Path, rows: int) -> Source:
    history = itertools.islice(generate(_SEED, _ACCOUNTS, _DAYS), rows)
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(HEADER)
        file.writelines(map(to_line, history))
    return Source(path, example_mapping("generated"), f"generated from seed {_SEED}")
