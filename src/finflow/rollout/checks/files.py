"""Where manifests are read from: a folder, or a folder of a git revision. Bounded in files and bytes.

Git is asked for blobs rather than for an archive, because an archive leaves out what .gitattributes says.
"""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

from finflow.rollout.checks.manifests import Unreadable

MAX_FILES: Final = 20_000
MAX_BYTES: Final = 64 << 20


async def of_folder(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path; a symbolic link is what it points to, as text."""
    return await asyncio.to_thread(_read_folder, folder)


async def of_revision(repository: Path, revision: str, folder: str, timeout_s: float) -> dict[str, bytes]:
    """Every file of a folder of a revision by its path in the folder."""
    return await asyncio.to_thread(_read_revision, repository, revision, folder, timeout_s)


def _read_folder(root: Path) -> dict[str, bytes]:
    if not root.is_dir():
        raise Unreadable(f"{root} is not a folder")
    found: dict[str, bytes] = {}
    left = MAX_BYTES
    for place, folders, names in os.walk(root, onerror=_raise):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        folders[:] = [name for name in folders if name != ".git" and name not in linked]
        for name in [*names, *linked]:
            path = Path(place) / name
            content = _content(path)
            if content is not None:
                found[str(path.relative_to(root))] = content
                left = _within(len(found), left - len(content))
    return found


def _raise(error: OSError) -> None:
    raise error


def _content(path: Path) -> bytes | None:
    if path.is_symlink():
        return os.fsencode(path.readlink())
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _within(files: int, left: int) -> int:
    if files > MAX_FILES or left < 0:
        raise Unreadable(f"there are more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB of them")
    return left


def _read_revision(repository: Path, revision: str, folder: str, timeout_s: float) -> dict[str, bytes]:
    prefix = folder.strip("/").removeprefix("./")
    prefix = "" if prefix in ("", ".") else prefix + "/"
    commit = _git(
        repository, timeout_s, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"
    )
    named = commit.decode().strip()
    listed = _git(repository, timeout_s, "ls-tree", "-r", "-z", "-l", "--full-tree", named)
    blobs: dict[str, tuple[str, int]] = {}
    found: dict[str, bytes] = {}
    for line in listed.split(b"\0"):
        about, _, raw = line.partition(b"\t")
        path = os.fsdecode(raw)
        if line and path.startswith(prefix):
            _mode, kind, name, size = about.decode().split()
            if kind == "blob":
                blobs[path.removeprefix(prefix)] = (name, int(size))
            else:
                # A submodule is the commit that it stands at.
                found[path.removeprefix(prefix)] = name.encode()
    if not blobs and not found:
        raise Unreadable(f"{revision} has no files in {folder}")
    _within(len(blobs), MAX_BYTES - sum(size for _, size in blobs.values()))
    return found | _blobs(repository, timeout_s, blobs)


def _blobs(repository: Path, timeout_s: float, blobs: dict[str, tuple[str, int]]) -> dict[str, bytes]:
    """The content of all blobs, asked for in one go: each answer is a line with its size, then its bytes."""
    asked = "".join(f"{name}\n" for name, _ in blobs.values()).encode()
    answer = _git(repository, timeout_s, "cat-file", "--batch", given=asked)
    found: dict[str, bytes] = {}
    at = 0
    for path, (_, size) in blobs.items():
        begin = answer.index(b"\n", at) + 1
        found[path] = answer[begin : begin + size]
        at = begin + size + 1
    return found


def _git(repository: Path, timeout_s: float, *arguments: str, given: bytes = b"") -> bytes:
    """What git prints. Nobody is asked anything, and no hook or pager of the repository runs."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/nonexistent")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    command = ["git", "--no-pager", "--no-replace-objects", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program; the revision stands after --end-of-options
            command, input=given, capture_output=True, timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"git {arguments[0]} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise Unreadable(f"git {arguments[0]} in {repository}: {reason}")
    return done.stdout
