"""Folders that are built aside, put in place whole, and never changed: digests, read-only modes, removal."""

import contextlib
import ctypes
import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.stack.fleets.folder import sync_folder
from finflow.stack.folder import folder_error
from finflow.stack.processes import Process, alive, identify

_BUILDING: Final = ".building-"
_REMOVING: Final = ".removing-"


def digest_of(root: Path, without: frozenset[str] = frozenset()) -> str:
    """A digest of every name, kind, executable bit, link and byte below a folder but for these at its top."""
    whole = hashlib.sha256()
    for path in sorted(_entries(root), key=os.fsencode):
        if path in without:
            continue
        whole.update(f"{_described(root / path)} {len(os.fsencode(path))} ".encode() + os.fsencode(path))
    return whole.hexdigest()


def _entries(root: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        names = files + [name for name in folders if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114,PTH118 - thousands of paths
        found += [os.path.normpath(os.path.join(inside, name)) for name in names]  # noqa: PTH118 - the same
    return found


def _described(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"link {hashlib.sha256(os.fsencode(path.readlink())).hexdigest()}"
    if not stat.S_ISREG(status.st_mode):
        return "other"
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{'program' if status.st_mode & 0o100 else 'file'} {content}"


def building_folder(parent: Path) -> Path:
    """A folder to build in, beside its place; its name says who builds, so that others know whose it was."""
    me = identify(os.getpid())
    assert me is not None, "this process runs"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = parent / f"{_BUILDING}{me.pid}-{me.started}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise folder_error(error, parent) from error
    return folder


def put_in_place(built: Path, place: Path) -> bool:
    """Makes what was built read-only, syncs it and gives it its name; False if another was first."""
    _freeze(built)
    _sync_file_system(built)
    try:
        built.rename(place)
    except OSError as error:
        if place.is_dir():
            discard(built)
            return False
        raise folder_error(error, place) from error
    sync_folder(place.parent)
    return True


def _freeze(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
        Path(folder).chmod(0o555)


def _sync_file_system(path: Path) -> None:
    """One call instead of one for each of thousands of files."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise FinFlowError("data_unusable", f"{path}: {os.strerror(number)}")
    finally:
        os.close(handle)


def discard(root: Path) -> None:
    """Removes a read-only folder; its name goes first, so that nobody meets half of it."""
    hidden = root
    if not root.name.startswith((_BUILDING, _REMOVING)):
        me = identify(os.getpid())
        assert me is not None, "this process runs"
        hidden = root.with_name(f"{_REMOVING}{me.pid}-{me.started}-{secrets.token_hex(4)}")
        root.rename(hidden)
    for folder, _, _ in os.walk(hidden):
        Path(folder).chmod(0o700)
    shutil.rmtree(hidden)


def sweep(parent: Path) -> int:
    """Removes what killed builds and removals have left; how many there were."""
    left = [each for each in _hidden(parent) if not alive(_whose(each))]
    for folder in left:
        # Another build may sweep too.
        with contextlib.suppress(FileNotFoundError):
            discard(folder)
    return len(left)


def _hidden(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [each for each in parent.iterdir() if each.name.startswith((_BUILDING, _REMOVING))]


def _whose(folder: Path) -> Process:
    words = folder.name.split("-")
    numbers = [int(word) if word.isdigit() else 0 for word in words[1:3]]
    return Process(*numbers) if len(numbers) == 2 else Process(0, 0)
