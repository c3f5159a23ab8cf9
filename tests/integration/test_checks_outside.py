"""Checks that start programs: git for manifests of two revisions, and whatever a command check runs."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finflow.rollout.checks.approval import ManifestsCheck
from finflow.rollout.checks.programs import CommandCheck
from finflow.rollout.checks_spec import CommandSpec, ManifestsSpec
from finflow.rollout.ports import Approval
from finflow.rollout.verdicts import Judgement, Verdict

ROLE = (
    "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r}, rules: [{verbs: [get]}]}\n"
)


class Nobody:
    """Has approved nothing."""

    async def find(self, digest: str) -> Approval | None:
        return None


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(repository: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "x")
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", ".")
    return tmp_path


async def judged(repository: Path, before: str, after: str, folder: str = "deploy") -> Judgement:
    spec = ManifestsSpec(before, after, repository=str(repository), folder=folder)
    return await ManifestsCheck(spec, Path("/"), Nobody()).judge()


async def test_two_revisions_are_compared(repository: Path) -> None:
    first = commit(repository, {"deploy/röle.yaml": ROLE, "other/role.yaml": ROLE})
    second = commit(repository, {"deploy/röle.yaml": f"# reviewed\n{ROLE}", "other/role.yaml": "{}"})
    third = commit(
        repository,
        # An archive of this revision would not have the file.
        {"deploy/röle.yaml": ROLE.replace("get", "'*'"), ".gitattributes": "* export-ignore"},
    )
    assert (await judged(repository, first, second)).verdict is Verdict.PASS
    changed = await judged(repository, second, "HEAD")
    assert changed.verdict is Verdict.INCONCLUSIVE
    assert "Role r changed (rules[0].verbs[0])" in changed.words
    assert (await judged(repository, first, third)).numbers["digest"] == changed.numbers["digest"]


@pytest.mark.parametrize(
    ("before", "after", "folder"),
    [
        ("HEAD", "nowhere", "deploy"),
        ("HEAD", "HEAD:deploy", "deploy"),
        ("HEAD", "HEAD", "nowhere"),
    ],
)
async def test_what_git_does_not_have_is_an_error(
    repository: Path, before: str, after: str, folder: str
) -> None:
    commit(repository, {"deploy/a.yaml": ROLE})
    assert (await judged(repository, before, after, folder)).verdict is Verdict.ERROR


async def test_a_folder_without_a_repository_is_an_error(tmp_path: Path) -> None:
    assert (await judged(tmp_path, "HEAD", "HEAD")).verdict is Verdict.ERROR


def program(text: str, timeout_s: float = 20, environment: tuple[str, ...] = ()) -> CommandCheck:
    spec = CommandSpec((sys.executable, "-c", text), timeout_s, environment=environment, name="own")
    environ = {"PATH": "/usr/bin:/bin", "KEPT": "yes", "SECRET": "hidden"}
    return CommandCheck(spec, Path("/"), environ, {"FINFLOW_ROLLOUT_RELEASE": "2.4.0"})


@pytest.mark.parametrize(
    ("text", "verdict", "words"),
    [
        ("print('all is well')", Verdict.PASS, "all is well"),
        ("import sys; sys.exit('three of nine failed')", Verdict.FAIL, "three of nine failed"),
        ("import sys; sys.exit(2)", Verdict.ERROR, "The program exited with 2."),
        ("import os; os.kill(os.getpid(), 9)", Verdict.ERROR, "The program exited with -9."),
        ("""print('{"verdict": "inconclusive", "words": "wait"}')""", Verdict.INCONCLUSIVE, "wait"),
        ("""print('{"verdict": "pass"}'); raise SystemExit(1)""", Verdict.FAIL, '{"verdict": "pass"}'),
        ("""print('{"verdict": "fail", "words": "no"}')""", Verdict.FAIL, "no"),
        ("""print('{"verdict": "perhaps"}')""", Verdict.ERROR, "What it printed is no judgement"),
        ("print('x' * 10_000_000)", Verdict.PASS, "xxx"),
    ],
)
async def test_the_worse_of_exit_and_word_counts(text: str, verdict: Verdict, words: str) -> None:
    judgement = await program(text).judge()
    assert judgement.verdict is verdict
    assert judgement.words.startswith(words)
    assert len(judgement.words) <= 600


async def test_its_numbers_are_kept_and_its_exit_cannot_be_made_up() -> None:
    judgement = await program("""print('{"numbers": {"checked": 12, "exit_code": 7}}')""").judge()
    assert judgement.numbers == {"checked": 12, "exit_code": 0}


async def test_it_sees_what_the_spec_names_and_nothing_else() -> None:
    names = ["KEPT", "SECRET", "FINFLOW_ROLLOUT_RELEASE"]
    text = f"import os; print(*[os.environ.get(name) for name in {names}])"
    assert (await program(text, environment=("KEPT",)).judge()).words == "yes None 2.4.0"


async def test_what_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    text = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    judgement = await program(text, timeout_s=3).judge()
    assert judgement.verdict is Verdict.ERROR
    assert "did not end within 3 s" in judgement.words
    child = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its check"


async def test_a_program_that_is_not_there_is_an_error() -> None:
    check = CommandCheck(CommandSpec(("/nowhere/to/be/found",)), Path("/"), {}, {})
    judgement = await check.judge()
    assert judgement.verdict is Verdict.ERROR
    assert "/nowhere/to/be/found" in judgement.words
