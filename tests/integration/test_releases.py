"""Releases: built from revisions and wheels, sharing dependencies, found tampered, safe against kill -9."""

import base64
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.stack import processes
from finflow.stack.releases import trees
from finflow.stack.releases.build import Wanted, build
from finflow.stack.releases.store import Release, Store

_COMMITTED_AT = "2026-03-01T12:00:00+00:00"


def _git(folder: Path, *words: str) -> str:
    who = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    when = {"GIT_AUTHOR_DATE": _COMMITTED_AT, "GIT_COMMITTER_DATE": _COMMITTED_AT}
    done = subprocess.run(
        ["git", "-C", folder, *words],
        env={**os.environ, **who, **when},
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout.strip()


def _commit(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    _git(folder, "add", "-A")
    _git(folder, "commit", "-qm", "change")
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    _git(folder, "init", "-q")
    _commit(folder, app_dot_py="ANSWER = 1\n", src__inner_dot_py="INNER = 'src'\n")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "releases")


def _quiet(_: str) -> None:
    return None


def _wheel(folder: Path, name: str, version: str, files: dict[str, str], **metadata: str) -> Path:
    """A wheel made by hand, as the specification of the format says."""
    info = f"{name}-{version}.dist-info"
    lines = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in metadata.items())
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_record_hash(text)},{len(text.encode())}\n" for path, text in content.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in content.items():
            archive.writestr(each, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def _record_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Makes distributions that pip finds, and the line of a lock for each."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def made(name: str, version: str) -> str:
        entry = f"[console_scripts]\n{name}-say = {name}:say\n"
        files = {
            f"{name}.py": f"VERSION = '{version}'\ndef say():\n    print(VERSION)\n",
            f"{name}-{version}.dist-info/entry_points.txt": entry,
        }
        wheel = _wheel(folder, name, version, files)
        return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"

    return made


def _run(store: Store, release: Release, *words: str, program: str = "python") -> str:
    command = [store.folder(release.name) / "bin" / program, *words]
    return subprocess.run(command, capture_output=True, check=True, text=True, cwd="/").stdout.strip()


def _code(caught: pytest.ExceptionInfo[FinFlowError]) -> str:
    return caught.value.kind.code


def test_a_revision_becomes_a_release_that_no_later_change_touches(project: Path, store: Store) -> None:
    commit = _git(project, "rev-parse", "HEAD")
    release, made = build(store, Wanted(repository=project), _quiet)
    assert (made, release.name) == (True, f"shop-{commit[:12]}")
    assert (release.source.commit, release.source.committed_at) == (commit, _COMMITTED_AT)
    (project / "app.py").write_text("ANSWER = 'not committed'\n")
    assert build(store, Wanted(repository=project), _quiet) == (release, False)
    second, _ = build(
        store, Wanted(repository=project, revision=_commit(project, app_dot_py="ANSWER = 2\n")), _quiet
    )
    told = "import app, inner; print(app.ANSWER, inner.INNER)"
    assert (_run(store, release, "-c", told), _run(store, second, "-c", told)) == ("1 src", "2 src")
    assert [each.name for each in store.listed()] == [second.name, release.name]
    assert store.faults(release) == store.faults(second) == []


def test_a_project_that_says_how_it_is_built_is_built(project: Path, store: Store) -> None:
    pyproject = """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "shop"
        version = "1.5"
        [project.scripts]
        shop-open = "shop.door:main"
        [tool.hatch.build.targets.wheel]
        packages = ["shop"]
        """
    (project / "shop").mkdir()
    (project / "shop" / "__init__.py").write_text("")
    _commit(project, shop__door_dot_py="def main():\n    print('open')\n", pyproject_dot_toml=pyproject)
    pyproject_says = Wanted(repository=project)
    release, _ = build(store, pyproject_says, _quiet)
    assert (release.project, release.version) == ("shop", "1.5")
    assert release.name.startswith("shop-")
    assert _run(store, release, program="shop-open") == "open"
    version = "from importlib.metadata import version; print(version('shop'))"
    assert _run(store, release, "-c", version) == "1.5"


def test_releases_of_one_lock_share_a_layer_and_another_lock_gets_its_own(
    project: Path, store: Store, index: Callable[[str, str], str]
) -> None:
    first = _commit(project, requirements_dot_txt=index("teapot", "1.0"))
    second = _commit(project, app_dot_py="ANSWER = 2\n")
    third = _commit(project, requirements_dot_txt=index("teapot", "2.0"))
    said: list[str] = []
    built = [
        build(store, Wanted(repository=project, revision=each), said.append)[0]
        for each in (first, second, third)
    ]
    layers = [each.layer.key if each.layer else None for each in built]
    assert layers[0] == layers[1] != layers[2]
    assert len(list(store.layers.iterdir())) == 2
    assert [_run(store, each, "-c", "import teapot; print(teapot.VERSION)") for each in built] == [
        "1.0",
        "1.0",
        "2.0",
    ]
    assert _run(store, built[2], program="teapot-say") == "2.0"
    assert not store.remove(built[0].name), "its layer is needed still"
    assert store.remove(built[1].name)
    assert [each.name for each in store.layers.iterdir()] == [layers[2]]
    assert _run(store, built[2], program="teapot-say") == "2.0"


def test_isolated_has_its_dependencies_inside(
    project: Path, store: Store, index: Callable[[str, str], str]
) -> None:
    _commit(project, requirements_dot_txt=index("teapot", "1.0"))
    release, _ = build(store, Wanted(repository=project, isolated=True), _quiet)
    where = Path(_run(store, release, "-c", "import teapot; print(teapot.__file__)"))
    assert where.is_relative_to(store.folder(release.name))
    assert release.layer is None
    assert not store.layers.exists()
    assert _run(store, release, program="teapot-say") == "1.0"


def test_an_archive_that_is_not_the_one_of_the_lock_is_refused(
    project: Path, store: Store, index: Callable[[str, str], str]
) -> None:
    line = index("teapot", "1.0")
    _commit(project, requirements_dot_txt=line[:-5] + ("0000\n" if line[-5:-1] != "0000" else "1111\n"))
    with pytest.raises(FinFlowError) as caught:
        build(store, Wanted(repository=project), _quiet)
    assert _code(caught) == "release_failed"
    assert "hash" in caught.value.detail.lower()
    assert store.listed() == []
    assert list(store.layers.iterdir()) == []


@pytest.mark.parametrize(
    "lock",
    ["teapot==1.0\n", "-r other.txt --hash=sha256:00\n", "-e . --hash=sha256:00\n"],
    ids=["no hash", "leads", "e"],
)
def test_a_list_that_locks_nothing_is_refused(
    project: Path, store: Store, index: Callable[[str, str], str], lock: str
) -> None:
    index("teapot", "1.0")
    _commit(project, requirements_dot_txt=lock)
    with pytest.raises(FinFlowError) as caught:
        build(store, Wanted(repository=project), _quiet)
    assert _code(caught) == "lock_unusable"
    if lock.startswith("teapot"):
        release, _ = build(store, Wanted(repository=project, allow_unhashed=True), _quiet)
        assert _run(store, release, program="teapot-say") == "1.0"
        assert release.lock is not None
        assert not release.lock.hashed


def test_from_current_copies_what_is_installed_here_and_checks_it(project: Path, store: Store) -> None:
    import msgspec

    pin = f"msgspec=={msgspec.__version__} --hash=sha256:{'0' * 64}\nnothing==1 ; sys_platform == 'win32'"
    _commit(project, requirements_dot_txt=f"{pin} --hash=sha256:{'0' * 64}\n")
    release, _ = build(store, Wanted(repository=project, from_current=True), _quiet)
    where = Path(_run(store, release, "-c", "import msgspec; print(msgspec.__file__)"))
    assert where.is_relative_to(store.layers)
    with pytest.raises(subprocess.CalledProcessError):
        _run(store, release, "-c", "import pytest")
    _commit(project, requirements_dot_txt=f"msgspec==0.0.1 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(FinFlowError) as caught:
        build(store, Wanted(repository=project, from_current=True), _quiet)
    assert _code(caught) == "lock_unsatisfied"


def test_a_wheel_becomes_a_release(tmp_path: Path, store: Store) -> None:
    entry = "[console_scripts]\nkettle = kettle:main\n"
    files = {"kettle.py": "def main():\n    print('boils')\n", "kettle-3.1.dist-info/entry_points.txt": entry}
    wheel = _wheel(tmp_path, "kettle", "3.1", files)
    wanted = Wanted(wheel=wheel, commit="abc", committed_at=_COMMITTED_AT)
    release, _ = build(store, wanted, _quiet)
    assert (release.name, release.project, release.version) == ("kettle-3.1", "kettle", "3.1")
    assert release.source.wheel_sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert release.source.committed_at == _COMMITTED_AT
    assert _run(store, release, program="kettle") == "boils"


def test_a_wheel_that_is_not_whole_or_needs_more_is_refused(tmp_path: Path, store: Store) -> None:
    needy = _wheel(tmp_path, "needy", "1", {"needy.py": ""}, Requires_Dist="teapot>=1")
    with pytest.raises(FinFlowError, match="teapot") as caught:
        build(store, Wanted(wheel=needy), _quiet)
    assert _code(caught) == "lock_unusable"
    changed = _wheel(tmp_path, "kettle", "1", {"kettle.py": "x = 1\n"})
    content = changed.read_bytes()
    with zipfile.ZipFile(changed) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(changed, "w") as archive:
        for name, each in kept.items():
            archive.writestr(name, b"x = 2\n" if name == "kettle.py" else each)
    escaping = tmp_path / "escaping-1-py3-none-any.whl"
    escaping.write_bytes(content)
    with zipfile.ZipFile(escaping, "a") as archive:
        archive.writestr("../../outside.py", "")
    for wheel, words in ((changed, "kettle.py"), (escaping, "outside"), (tmp_path / "no.whl", "no.whl")):
        with pytest.raises(FinFlowError, match=words):
            build(store, Wanted(wheel=wheel), _quiet)
    assert store.listed() == []
    assert not (tmp_path / "outside.py").exists()


@pytest.mark.parametrize("what", ["changed", "added", "removed", "chmod", "layer"])
def test_tampering_is_found(project: Path, store: Store, index: Callable[[str, str], str], what: str) -> None:
    _commit(project, requirements_dot_txt=index("teapot", "1.0"))
    release, _ = build(store, Wanted(repository=project), _quiet)
    assert store.faults(release) == []
    site = store.folder(release.name) / "source"
    if what == "layer":
        assert release.layer is not None
        site = store.layers / release.layer.key / "site-packages"
    site.chmod(0o755)
    target = site / ("teapot.py" if what == "layer" else "app.py")
    target.chmod(0o644)
    if what in ("changed", "layer"):
        target.write_text(target.read_text().replace("1", "9"))
    elif what == "added":
        (site / "sitecustomize.py").write_text("")
    elif what == "removed":
        target.unlink()
    else:
        target.chmod(0o755)
    assert len(store.faults(release)) == 1


def test_another_release_of_the_same_name_is_refused(project: Path, store: Store) -> None:
    build(store, Wanted(repository=project, name="shop"), _quiet)
    _commit(project, app_dot_py="ANSWER = 2\n")
    with pytest.raises(FinFlowError) as caught:
        build(store, Wanted(repository=project, name="shop"), _quiet)
    assert _code(caught) == "release_exists"


@pytest.mark.parametrize("revision", ["no-such-branch", "--output=evil", "HEAD:app.py"])
def test_what_is_no_revision_is_refused(project: Path, store: Store, revision: str) -> None:
    with pytest.raises(FinFlowError) as caught:
        build(store, Wanted(repository=project, revision=revision), _quiet)
    assert _code(caught) == "revision_unknown"
    assert not (project / "evil").exists()


def test_a_link_that_leads_out_of_the_project_is_refused(project: Path, store: Store) -> None:
    (project / "link").symlink_to("../../secrets")
    _commit(project)
    with pytest.raises(FinFlowError, match="link"):
        build(store, Wanted(repository=project), _quiet)
    assert store.listed() == []


def test_builds_of_the_same_at_the_same_time_make_one(
    project: Path, store: Store, index: Callable[[str, str], str]
) -> None:
    _commit(project, requirements_dot_txt=index("teapot", "1.0"))
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: build(store, Wanted(repository=project), _quiet), range(3)))
    assert sorted(made for _, made in built) == [False, False, True]
    assert len({release.digest for release, _ in built}) == 1
    assert store.faults(built[0][0]) == []
    assert len(list(store.built.iterdir())) == len(list(store.layers.iterdir())) == 1


_BUILD = """
import sys
from pathlib import Path
from finflow.stack.releases.build import Wanted, build
from finflow.stack.releases.store import Store
build(Store(Path(sys.argv[1])), Wanted(repository=Path(sys.argv[2])), print)
"""


def test_a_killed_build_leaves_nothing_that_counts(
    project: Path, store: Store, index: Callable[[str, str], str]
) -> None:
    _commit(project, requirements_dot_txt=index("teapot", "1.0"))
    command = [sys.executable, "-c", _BUILD, str(store.root), str(project)]
    for number in range(8):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(0.25 + 0.15 * number)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert all(store.faults(each) == [] for each in store.listed()), "finished or not there at all"
    release, _ = build(store, Wanted(repository=project), _quiet)
    assert store.faults(release) == []
    assert _run(store, release, program="teapot-say") == "1.0"
    trees.sweep(store.built)
    trees.sweep(store.layers)
    assert len(list(store.built.iterdir())) == len(list(store.layers.iterdir())) == 1


def test_a_release_in_use_is_not_removed(project: Path, store: Store) -> None:
    release, _ = build(store, Wanted(repository=project), _quiet)
    python = store.folder(release.name) / "bin" / "python"
    user = subprocess.Popen([python, "-c", "import time; time.sleep(60)"])
    try:
        while not processes.mentioning(str(store.folder(release.name)), os.getpid()):
            time.sleep(0.01)
        with pytest.raises(FinFlowError, match=str(user.pid)) as caught:
            store.remove(release.name)
        assert _code(caught) == "release_in_use"
        store.remove(release.name, force=True)
    finally:
        user.kill()
        user.wait()
    assert store.listed() == []


@pytest.mark.parametrize("name", ["../other", ".building-1", "", "a/b"])
def test_what_cannot_be_a_name_is_unknown(store: Store, name: str) -> None:
    with pytest.raises(FinFlowError) as caught:
        store.remove(name)
    assert _code(caught) == "release_unknown"


def test_a_place_with_a_space_and_a_long_name(project: Path, tmp_path: Path, index: Any) -> None:
    _commit(project, requirements_dot_txt=index("teapot", "1.0"))
    for name in ("with a space", "x" * 150):
        store = Store(tmp_path / name)
        release, _ = build(store, Wanted(repository=project), _quiet)
        assert _run(store, release, program="teapot-say") == "1.0"
