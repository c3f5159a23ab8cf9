"""Where a release comes from: a revision of a git repository as it was committed, or a wheel."""

import io
import re
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from finflow.kernel.errors import FinFlowError
from finflow.stack.releases.tools import run

# PEP 517: the backend builds in a process of its own, in the project's folder.
_HOOK: Final = """
import importlib, sys
name, _, attribute = sys.argv[1].partition(":")
backend = importlib.import_module(name)
for part in filter(None, attribute.split(".")):
    backend = getattr(backend, part)
backend.build_wheel(sys.argv[2])
"""


class Revision:
    """One commit. Raises revision_unknown when the repository has none of this name."""

    def __init__(self, repository: Path, name: str) -> None:
        self.repository = repository
        # --end-of-options keeps a name that begins with a dash from being an option.
        told = self._git("log", "-1", "--format=%H %cI %ct", "--end-of-options", name, "--").decode().split()
        if len(told) != 3:
            raise FinFlowError("revision_unknown", f"{repository} has no {name}.")
        self.commit, self.committed_at, epoch_s = told
        self.committed_s = int(epoch_s)

    def file(self, path: str) -> bytes | None:
        """A file as it was committed, or None where there is none."""
        try:
            return self._git("show", f"{self.commit}:{path}")
        except FinFlowError:
            return None

    def unpack(self, folder: Path) -> None:
        """Writes the whole tree as it was committed. Links that lead out of it are refused."""
        archive = self._git("archive", "--format=tar", self.commit)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
            members = tree.getmembers()
            for member in members:
                _check_inside(member)
            tree.extractall(folder, members=members)  # noqa: S202 - each member was checked

    def _git(self, *words: str) -> bytes:
        return run(["git", "-C", self.repository, *words], code="revision_unknown", timeout_s=120)


def _check_inside(member: tarfile.TarInfo) -> None:
    parts = Path(member.name).parts
    bad = member.name.startswith("/") or ".." in parts or member.isdev()
    if member.issym() or member.islnk():
        depth = len(parts) - 1
        for part in Path(member.linkname).parts:
            depth += -1 if part == ".." else 1
            bad = bad or depth < 0
        bad = bad or member.linkname.startswith("/")
    if bad:
        raise FinFlowError("release_failed", f"{member.name} in the revision leads out of the project.")


def is_package(project: Path) -> bool:
    """Whether a project says how it is built; others are used as the folder that they are."""
    told = _pyproject(project)
    return "build-system" in told or "project" in told or (project / "setup.py").is_file()


def build_wheel(project: Path, out: Path, committed_s: int) -> Path:
    """Builds the project, with the backend that is installed here if it fits, else with pip that gets it."""
    out.mkdir()
    build_system = _pyproject(project).get("build-system", {})
    backend, requires = build_system.get("build-backend", ""), build_system.get("requires", [])
    # Wheels of one commit are equal wherever they are built.
    environment = {"SOURCE_DATE_EPOCH": str(max(committed_s, 315_532_800))}
    if backend and "backend-path" not in build_system and _satisfied(requires):
        run([sys.executable, "-c", _HOOK, backend, out], folder=project, environment=environment)
    else:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-input"]
        run([*pip, "--wheel-dir", out, project], environment=environment)
    wheels = list(out.glob("*.whl"))
    if len(wheels) != 1:
        raise FinFlowError("release_failed", f"The build made {len(wheels)} wheels instead of one.")
    return wheels[0]


def _pyproject(project: Path) -> dict[str, Any]:
    path = project / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text()) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FinFlowError("release_failed", f"pyproject.toml: {error}.") from error


def _satisfied(requires: list[str]) -> bool:
    """Whether everything that the build needs is installed beside us."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return False
    try:
        wanted = [Requirement(text) for text in requires]
        applicable = [each for each in wanted if each.marker is None or each.marker.evaluate()]
        return all(
            each.specifier.contains(metadata.version(each.name), prereleases=True) for each in applicable
        )
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


def project_name(pyproject: bytes | None, folder: Path) -> str:
    """What a project calls itself, else its folder's name, as far as a release can bear it."""
    try:
        told = tomllib.loads((pyproject or b"").decode()).get("project", {}).get("name")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        told = None
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(told or folder.resolve().name)).strip("-._") or "project"
