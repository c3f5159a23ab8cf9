"""The releases of a data folder: which there are, whether they are as they were built, who uses them.

RELEASES/built/NAME/      an environment: bin/python, lib/, source/ where there is one, release.json
RELEASES/layers/DIGEST/   the dependencies that releases of one lock share: site-packages/, layer.json
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.stack import processes
from finflow.stack.folder import folder_error
from finflow.stack.releases import trees
from finflow.stack.releases.trees import digest_of

RECORD: Final = frozenset({"release.json"})
LAYER_RECORD: Final = frozenset({"layer.json"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,63}")
_BUSY_S: Final = 10.0
_POLL_S: Final = 0.1


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a release was made from. `committed_at` (RFC 3339) is where its lead time begins."""

    kind: Literal["git", "wheel"]
    commit: str | None = None
    committed_at: str | None = None
    wheel: str | None = None
    wheel_sha256: str | None = None


class Lock(msgspec.Struct, frozen=True):
    """The list of dependencies: its name in the project, its digest, whether it holds hashes."""

    file: str
    sha256: str
    hashed: bool


class Layer(msgspec.Struct, frozen=True):
    """Dependencies in a folder. `origin`: installed from archives, or copied from a running environment."""

    key: str
    digest: str
    origin: Literal["install", "current"]
    built_at: str


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """release.json. `inputs` is equal for what was asked equally; `digest` is over what came out."""

    name: str
    project: str
    version: str
    source: Source
    python: str
    lock: Lock | None
    layer: Layer | None
    isolated: bool
    inputs: str
    digest: str
    built_at: str


class Store:
    """The folder of releases."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - resolve() would follow links
        self.built = self.root / "built"
        self.layers = self.root / "layers"

    def folder(self, name: str) -> Path:
        """Where a release of this name lies. Raises release_unknown for what cannot be a name."""
        if not _NAME.fullmatch(name):
            raise FinFlowError("release_unknown", f"{name!r} cannot be the name of a release.")
        return self.built / name

    def listed(self) -> list[Release]:
        """Every release that was finished, the newest first."""
        names = [each.name for each in self.built.iterdir()] if self.built.is_dir() else []
        found = [self.find(name) for name in names if _NAME.fullmatch(name)]
        return sorted(
            (each for each in found if each), key=lambda each: (each.built_at, each.name), reverse=True
        )

    def find(self, name: str) -> Release | None:
        """The release of this name, or None."""
        try:
            return msgspec.json.decode((self.folder(name) / "release.json").read_bytes(), type=Release)
        except (OSError, msgspec.DecodeError):
            return None

    def get(self, name: str) -> Release:
        """The release of this name. Raises release_unknown."""
        release = self.find(name)
        if release is None:
            raise FinFlowError("release_unknown", f"{name} is not in {self.root}.")
        return release

    def layer(self, key: str) -> Layer | None:
        """The layer of this key, if it was finished."""
        try:
            return msgspec.json.decode((self.layers / key / "layer.json").read_bytes(), type=Layer)
        except (OSError, msgspec.DecodeError):
            return None

    def faults(self, release: Release, *, layer_too: bool = True) -> list[str]:
        """What is not as it was built; empty for a release that is whole."""
        found = []
        folder = self.folder(release.name)
        if release.name != folder.name or digest_of(folder, RECORD) != release.digest:
            found.append(f"the files in {folder} were changed since it was built")
        if release.layer and layer_too:
            layer = self.layers / release.layer.key
            if digest_of(layer, LAYER_RECORD) != release.layer.digest:
                found.append(f"the dependencies in {layer} were changed since they were put there")
        return found

    def users(self, name: str) -> list[int]:
        """The processes that were started from this release, or keep such processes."""
        folder = self.folder(name)
        return processes.mentioning(str(folder), besides=os.getpid())

    def remove(self, name: str, *, force: bool = False) -> bool:
        """Removes a release, and its layer when no other one needs it; whether the layer went too.

        Raises release_unknown, release_in_use, release_busy.
        """
        with self.alone():
            release = self.get(name)
            users = self.users(name)
            if users and not force:
                raise FinFlowError(
                    "release_in_use", f"{name} is used by processes {', '.join(map(str, users))}."
                )
            trees.discard(self.folder(name))
            key = release.layer.key if release.layer else None
            if key is None or any(each.layer and each.layer.key == key for each in self.listed()):
                return False
            trees.discard(self.layers / key)
            return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody builds or removes for this block. Raises release_busy."""
        with self._locked("lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def building(self) -> Iterator[None]:
        """Nobody removes for this block; others may build. Raises release_busy."""
        with self._locked("lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def _locked(self, name: str, kind: int) -> Iterator[None]:
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise folder_error(error, self.root) from error
        try:
            _take(handle, kind)
            yield
        finally:
            os.close(handle)


def _take(handle: int, kind: int) -> None:
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise FinFlowError("release_busy") from None
            time.sleep(_POLL_S)


def checked_name(name: str) -> str:
    """The name, if a release can have it. Raises setting_malformed."""
    if not _NAME.fullmatch(name):
        raise FinFlowError(
            "setting_malformed", f"--name={name}: up to 64 letters, digits and . _ + -", "--name"
        )
    return name
