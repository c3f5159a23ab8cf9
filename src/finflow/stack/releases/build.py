"""Builds a release: its source, its dependencies and an environment around them, put in place whole."""

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.stack.releases import layers, sources, trees, wheels
from finflow.stack.releases.environment import Environment
from finflow.stack.releases.layers import LOCK_FILES, Origin, Say
from finflow.stack.releases.sources import Revision
from finflow.stack.releases.store import RECORD, Layer, Lock, Release, Source, Store, checked_name

# Changed when the same inputs would be built into something else than before.
_FORMAT: Final = "1"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: a revision of a repository or a wheel, and how its dependencies come to it.

    `lock` names the list of dependencies: a path in the revision, or on this machine for a wheel; None looks
    for one. `no_lock` says that there are none.
    """

    repository: Path | None = None
    revision: str = "HEAD"
    wheel: Path | None = None
    commit: str | None = None
    committed_at: str | None = None
    name: str | None = None
    lock: str | None = None
    no_lock: bool = False
    allow_unhashed: bool = False
    isolated: bool = False
    from_current: bool = False


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What a build would do; what `--dry-run` shows."""

    name: str
    source: Source
    lock: Lock | None
    layer: str | None
    layer_there: bool
    release_there: bool


class Builder:
    """One build. Everything that can be refused is refused before anything is written."""

    def __init__(self, store: Store, wanted: Wanted, say: Say) -> None:
        self._store, self._wanted, self._say = store, wanted, say
        self._origin: Origin = "current" if wanted.from_current else "install"
        self._revision: Revision | None = None
        if wanted.wheel is None:
            self._revision = Revision(wanted.repository or Path(), wanted.revision)
            self._source = Source(
                kind="git", commit=self._revision.commit, committed_at=self._revision.committed_at
            )
        else:
            self._source = _wheel_source(wanted.wheel, wanted)
        self._lock_content = b""
        self._lock = self._read_lock()
        self.name = checked_name(wanted.name or self._default_name())
        self._inputs = self._inputs_digest()

    def plan(self) -> Planned:
        """What build() would do."""
        key = layers.key_of(self._lock, self._origin) if self._lock and not self._wanted.isolated else None
        return Planned(
            name=self.name,
            source=self._source,
            lock=self._lock,
            layer=key,
            layer_there=key is not None and self._store.layer(key) is not None,
            release_there=self._found() is not None,
        )

    def build(self) -> tuple[Release, bool]:
        """The release, and whether it was made now: the same one asked for again is there already.

        Raises release_exists, release_failed, release_busy, lock_unusable, lock_unsatisfied.
        """
        with self._store.building():
            if found := self._found():
                return found, False
            layer = None
            if self._lock and not self._wanted.isolated:
                layer = layers.ensure(self._store, self._lock, self._lock_content, self._origin, self._say)
            trees.sweep(self._store.built)
            building = trees.building_folder(self._store.built)
            try:
                self._fill(building, layer)
                made = trees.put_in_place(building, self._store.built / self.name)
            except BaseException:
                if building.exists():
                    trees.discard(building)
                raise
            found = self._found()
            assert found is not None, "it was put in place, by us or by another build of the same"
            return found, made

    def _found(self) -> Release | None:
        """The release if it is there. Raises release_exists where its name is another one's."""
        found = self._store.find(self.name)
        if found and found.inputs != self._inputs:
            raise FinFlowError("release_exists", f"{self.name} was built of something else.")
        return found

    def _fill(self, building: Path, layer: Layer | None) -> None:
        environment = Environment(building, self._store.built / self.name)
        environment.lay_out()
        told = self._put_project(building, environment)
        if self._lock and self._wanted.isolated:
            self._put_dependencies(building, environment)
        elif self._lock is None and not self._wanted.no_lock and told.needs:
            raise FinFlowError(
                "lock_unusable", f"{told.project} needs {told.needs[0]}, and there is no lock."
            )
        layer_site = [self._store.layers / layer.key / "site-packages"] if layer else []
        source_site = [environment.place / "source" / part for part in _roots(building / "source")]
        environment.import_from(*source_site, *layer_site)
        environment.write_commands(environment.site, *layer_site)
        environment.rewrite_scripts()
        layers.compile_all(building, building, environment.place)
        release = Release(
            name=self.name,
            project=told.project,
            version=told.version,
            source=self._source,
            python=platform.python_version(),
            lock=self._lock,
            layer=layer,
            isolated=self._wanted.isolated,
            inputs=self._inputs,
            digest=trees.digest_of(building, RECORD),
            built_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        (building / "release.json").write_bytes(msgspec.json.format(msgspec.json.encode(release)))

    def _put_project(self, building: Path, environment: Environment) -> wheels.Wheel:
        if self._wanted.wheel is not None:
            return wheels.unpack(self._wanted.wheel, environment.site, environment.bin)
        assert self._revision is not None, "it is one or the other"
        tree = building / "source"
        tree.mkdir()
        self._revision.unpack(tree)
        if not sources.is_package(tree):
            return wheels.Wheel(self._project(), "0", ())
        out = building / "wheel"
        wheel = sources.build_wheel(tree, out, self._revision.committed_s)
        told = wheels.unpack(wheel, environment.site, environment.bin)
        # What the release imports comes from the wheel; a source beside it would be imported by mistake.
        shutil.rmtree(tree)
        shutil.rmtree(out)
        return told

    def _put_dependencies(self, building: Path, environment: Environment) -> None:
        self._say("Dependencies are installed for this release alone ...")
        aside = building / "aside"
        aside.mkdir()
        site = aside / "site-packages"
        assert self._lock is not None, "there is something to install"
        if self._origin == "current":
            layers.copy_current(self._lock_content, aside, site, environment.place)
        else:
            layers.install(self._lock_content, self._lock, aside, site)
        shutil.copytree(site, environment.site, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(aside)

    def _read_lock(self) -> Lock | None:
        wanted = self._wanted
        if wanted.no_lock:
            return None
        for name in (wanted.lock,) if wanted.lock else LOCK_FILES if self._revision else ():
            content = self._revision.file(name) if self._revision else _read(Path(name))
            if content is not None:
                self._lock_content = content
                return layers.read_lock(name, content, allow_unhashed=wanted.allow_unhashed)
        if wanted.lock:
            raise FinFlowError("lock_unusable", f"There is no {wanted.lock}.")
        return None

    def _project(self) -> str:
        told = self._revision.file("pyproject.toml") if self._revision else None
        return sources.project_name(told, self._wanted.repository or Path())

    def _default_name(self) -> str:
        if self._wanted.wheel is not None:
            return "-".join(self._wanted.wheel.stem.split("-")[:2])[:64]
        return f"{self._project()[:48]}-{(self._source.commit or '')[:12]}"

    def _inputs_digest(self) -> str:
        facts = [
            _FORMAT,
            self._source.commit or "",
            self._source.wheel_sha256 or "",
            self._lock.sha256 if self._lock else "",
            self._origin if self._lock else "",
            str(self._wanted.isolated and self._lock is not None),
            str(self._lock.hashed if self._lock else ""),
            sys.implementation.cache_tag or "",
        ]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _roots(source: Path) -> list[str]:
    """Where in a project that is no package its modules lie."""
    if not source.is_dir():
        return []
    return ["src", "."] if (source / "src").is_dir() else ["."]


def _wheel_source(wheel: Path, wanted: Wanted) -> Source:
    try:
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{wheel}: {os.strerror(error.errno or 0)}") from error
    return Source(
        kind="wheel",
        commit=wanted.commit,
        committed_at=wanted.committed_at,
        wheel=wheel.name,
        wheel_sha256=digest,
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def build(store: Store, wanted: Wanted, say: Callable[[str], None]) -> tuple[Release, bool]:
    """Builds what is wanted, or finds it built."""
    return Builder(store, wanted, say).build()
