"""The dependencies of a lock in a folder, installed once and shared by every release of that lock."""

import base64
import hashlib
import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.stack.releases import trees
from finflow.stack.releases.store import LAYER_RECORD, Layer, Lock, Store
from finflow.stack.releases.tools import run

# Where a project keeps the list of what it needs, looked for in this order.
LOCK_FILES: Final = ("requirements.lock", "requirements/run.txt", "requirements.txt")
Origin = Literal["install", "current"]

_PIN: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._\-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
# Lists that lead to other lists, and projects on this machine: their digest would not be a digest of all.
_LEADS_AWAY: Final = re.compile(
    r"^\s*(-r|-c|-e|--requirement|--constraint|--editable)\b|^\s*\.{0,2}/", re.MULTILINE
)

Say = Callable[[str], None]


def read_lock(name: str, content: bytes, *, allow_unhashed: bool) -> Lock | None:
    """The lock of this content; None for one that asks for nothing. Raises lock_unusable."""
    text = content.decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return None
    if _LEADS_AWAY.search(text):
        raise FinFlowError("lock_unusable", f"{name} leads to other files; a lock is one file.")
    hashed = "--hash=" in text
    if not hashed and not allow_unhashed:
        raise FinFlowError("lock_unusable", f"{name} has no hashes.")
    return Lock(name, hashlib.sha256(content).hexdigest(), hashed)


def key_of(lock: Lock, origin: Origin) -> str:
    """The name of a lock's layer, which also depends on the interpreter and the machine it was made for."""
    made_for = f"{sys.implementation.cache_tag} {sysconfig.get_platform()} {origin} {lock.hashed}"
    return hashlib.sha256(f"{lock.sha256} {made_for}".encode()).hexdigest()[:32]


def ensure(store: Store, lock: Lock, content: bytes, origin: Origin, say: Say) -> Layer:
    """The layer of a lock, built if there is none yet. Raises release_failed, lock_unsatisfied."""
    key = key_of(lock, origin)
    if found := store.layer(key):
        say(f"Dependencies of {lock.file} are there (layer {key[:12]}).")
        return found
    say(f"Dependencies of {lock.file} {'are copied' if origin == 'current' else 'are installed'} ...")
    trees.sweep(store.layers)
    building = trees.building_folder(store.layers)
    try:
        site = building / "site-packages"
        if origin == "current":
            copy_current(content, building, site, store.layers / key)
        else:
            install(content, lock, building, site)
        digest = trees.digest_of(building, LAYER_RECORD)
        layer = Layer(key, digest, origin, datetime.now(UTC).isoformat(timespec="seconds"))
        (building / "layer.json").write_bytes(msgspec.json.format(msgspec.json.encode(layer)))
        trees.put_in_place(building, store.layers / key)
    except BaseException:
        if building.exists():
            trees.discard(building)
        raise
    found = store.layer(key)
    assert found is not None, "it was put in place, by us or by another build of the same"
    return found


def install(content: bytes, lock: Lock, building: Path, site: Path) -> None:
    """Has pip put the distributions of a lock into a folder, each archive checked against its hash."""
    listed = building / "lock.txt"
    listed.write_bytes(content)
    hashes = ["--require-hashes"] if lock.hashed else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-warn-script-location"]
    run([*pip, *hashes, "--target", site, "--requirement", listed])
    site.mkdir(exist_ok=True)


def copy_current(content: bytes, building: Path, site: Path, place: Path) -> None:
    """Copies the distributions of a lock from the environment that runs us, each file checked against its
    distribution's record. What the lock's hashes say of the archives cannot be seen here any more.
    """
    listed = building / "lock.txt"
    listed.write_bytes(content)
    _refuse_missing(listed)
    site.mkdir()
    for name, version in _PIN.findall(content.decode(errors="replace")):
        found = _installed(name)
        # pip has found the whole satisfied: what is not here is for other machines.
        if found is not None and found.version == version:
            _copy(found, site)
    compile_all(site, building, place)


def _refuse_missing(listed: Path) -> None:
    """Asks pip, which knows markers and versions, whether anything is left to install; needs no network."""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-input", "--no-deps"]
    report = ["--no-index", "--report", "-", "--requirement"]
    told = run([*pip, *report, listed], code="lock_unsatisfied", environment={"PIP_FIND_LINKS": ""})
    missing = [each["metadata"]["name"] for each in json.loads(told).get("install", [])]
    if missing:
        raise FinFlowError("lock_unsatisfied", f"Not installed here as the lock says: {', '.join(missing)}.")


def _installed(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _copy(distribution: metadata.Distribution, site: Path) -> None:
    files = distribution.files
    if not files:
        raise FinFlowError("lock_unsatisfied", f"{distribution.name} has no record of its files.")
    for file in files:
        source, inside = Path(str(file.locate())), Path(*file.parts)
        if inside.suffix == ".pyc":
            continue
        if ".." in inside.parts:
            # Scripts belong to their environment and are written anew from the entry points; programs not.
            if inside.parent.name != "bin" or _is_script(source):
                continue
            inside = Path("bin", inside.name)
        _copy_checked(distribution.name, source, site / inside, file.hash)


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _copy_checked(name: str, source: Path, place: Path, wanted: metadata.FileHash | None) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(source, place)
    except OSError as error:
        raise FinFlowError("lock_unsatisfied", f"{name}: {source.name} cannot be read.") from error
    if wanted is None:
        # RECORD itself, and what the installer wrote.
        return
    with place.open("rb") as file:
        digest = hashlib.file_digest(file, wanted.mode).digest()
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != wanted.value:
        raise FinFlowError("lock_unsatisfied", f"{name}: {source.name} was changed since it was installed.")


def compile_all(folder: Path, building: Path, place: Path) -> None:
    """Compiles every module, so that nothing is written at run time; tracebacks will name its place.

    Files that are not Python stay as they are: some distributions carry such along on purpose.
    """
    command = [
        "sh",
        "-c",
        '"$@" || true',
        "compile",
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "-q",
        "-j",
        "0",
    ]
    run([*command, "-s", building, "-p", place, folder])
