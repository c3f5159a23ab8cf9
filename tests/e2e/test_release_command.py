"""`finflow release` as a user runs it: build, list, show, remove; exit codes and words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


class Shell:
    """A user with a data folder and a project under git."""

    def __init__(self, root: Path) -> None:
        self.project = root / "shop"
        self.project.mkdir()
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FINFLOW_")}
        who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environ = {**plain, **who, "FINFLOW_DATA": str(root / "data")}
        (self.project / "app.py").write_text("print('one')\n")
        self.git("init", "-q")
        self.commit = self.committed()

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.project, env=self.environ, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def committed(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-qm", "change")
        return self.git("rev-parse", "HEAD")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finflow", "release", *arguments]
        return subprocess.run(
            command, cwd=self.project, env=self.environ, capture_output=True, text=True, timeout=60
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_release_from_build_to_removal(shell: Shell) -> None:
    planned = shell.run("build", "--dry-run", "--json")
    name = f"shop-{shell.commit[:12]}"
    assert (planned.returncode, json.loads(planned.stdout)["name"]) == (0, name)
    assert json.loads(shell.run("list", "--json").stdout) == {"items": []}

    built = shell.run("build", "--json")
    facts = json.loads(built.stdout)
    assert (built.returncode, facts["made"], facts["commit"]) == (0, True, shell.commit)
    python = Path(facts["folder"], "bin", "python")
    assert subprocess.run([python, "-m", "app"], capture_output=True, cwd="/").stdout == b"one\n"
    assert shell.run("build").stdout == f"{name}\n", "the same again is there already"

    shown = shell.run("show", name, "--json")
    assert (shown.returncode, json.loads(shown.stdout)["whole"]) == (0, True)
    app = Path(facts["folder"], "source", "app.py")
    app.chmod(0o644)
    app.write_text("print('two')\n")
    tampered = shell.run("show", name)
    assert tampered.returncode == 1
    assert "were changed since it was built" in tampered.stderr

    asked = shell.run("remove", name)
    assert asked.returncode == 130, "nobody said yes"
    assert shell.run("remove", name, "--dry-run").returncode == 0
    assert len(json.loads(shell.run("list", "--json").stdout)["items"]) == 1
    assert shell.run("remove", name, "--yes").returncode == 0
    assert shell.run("list").stdout == ""


def test_a_release_in_use_needs_force(shell: Shell) -> None:
    facts = json.loads(shell.run("build", "--json").stdout)
    python = Path(facts["folder"], "bin", "python")
    user = subprocess.Popen([python, "-c", "input()"], stdin=subprocess.PIPE, cwd="/")
    refused = shell.run("remove", facts["name"], "--yes")
    assert refused.returncode == 1
    assert str(user.pid) in refused.stderr
    user.communicate(b"\n")
    assert shell.run("remove", facts["name"], "--yes").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("build", "no-such-branch"), 1, "no such revision"),
        (("build", "--repository", "/"), 1, "no such revision"),
        (("build", "--name", "../x"), 2, "up to 64 letters"),
        (("build", "--lock", "missing.txt"), 1, "missing.txt"),
        (("build", "--wheel", "missing.whl"), 2, "missing.whl"),
        (("show", "none"), 1, "no such release"),
        (("remove", "none", "--yes"), 1, "no such release"),
    ],
)
def test_what_is_refused(shell: Shell, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = shell.run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "hint: " in done.stderr
