"""Runs the ```console blocks of a document as its reader would, and compares what they print.

A line that begins with `$ ` is typed, with `> ` typed on; what follows is its output. All blocks of a
document run in one bash, from the repository's root, against a FinFlow that runs. A block with the title
"First terminal" starts FinFlow: its output is compared with what `finflow up` printed. Ids, times and
speeds differ from run to run: they are numbered or masked on both sides before they are compared.

`python tests/e2e/console.py DOCUMENT...` writes the real output into the documents.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTED_URL = "http://127.0.0.1:8400"
DOCUMENTED_HOME = "/home/somebody"
FIRST_TERMINAL = 'title="First terminal"'

_BLOCK = re.compile(r"^```console(?P<title>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_ID = re.compile(r"\b(ten|led|acc|txn|fxq|fxr|rol)_[0-9a-hjkmnp-tv-z]{26}\b")
_VARYING = (
    # Midnight was given by the reader; any other moment is the machine's.
    (re.compile(r"\b\d{4}-\d\d-\d\dT(?!00:00:00)\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"\breq_[0-9a-f]+\b"), "<request>"),
    (re.compile(r"\b[\d,.]+ (s|ms)\b"), "<duration>"),
    (re.compile(r'("(?:seconds|transactions_per_s)"):[\d.]+'), r"\1:<number>"),
    (re.compile(r"\b[\d,]+ transactions/s"), "<speed>"),
    (re.compile(r"(transactions per s +)[\d,]+"), r"\1<speed>"),
    (re.compile(r"\bprocess \d+", re.IGNORECASE), "process <pid>"),
    # Rollouts: the machine's clock, who sits before it, and how many asked before the gates were sure.
    (
        re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ|^\d\d:\d\d:\d\d|(?<=  )\d\d:\d\d:\d\d", re.MULTILINE),
        "<time>",
    ),
    (re.compile(r"\b[\w.-]+@[\w.-]+ *"), "<somebody> "),
    (re.compile(r" failed \d+ of [^;\n]*"), " failed <some>"),
    (re.compile(r" +[\d,]+ (requests|errors)"), r" <number> \1"),
    (re.compile(r"\d+ lines, each as|(?<=hash is )[0-9a-f]{64}"), "<digest>"),
)


class Step(NamedTuple):
    """What is typed (without prompts), what should come back, and whether in the first terminal."""

    typed: str
    printed: str
    first_terminal: bool


def steps(document: str) -> list[Step]:
    """Every command of a document in order."""
    return [step for block in _BLOCK.finditer(document) for step in _of_block(block)]


def _of_block(block: re.Match[str]) -> list[Step]:
    first = FIRST_TERMINAL in block["title"]
    found: list[tuple[list[str], list[str]]] = []
    for line in block["body"].splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif line.startswith("> ") and not found[-1][1]:
            found[-1][0].append(line[2:])
        else:
            found[-1][1].append(line)
    return [Step("\n".join(typed), "\n".join(printed), first) for typed, printed in found]


class Masks:
    """Numbers ids in the order in which they are met, and masks what differs from run to run."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    def of(self, text: str) -> str:
        """The text as it can be compared."""
        for pattern, mask in _VARYING:
            text = pattern.sub(mask, text)
        return _ID.sub(self._numbered, text).rstrip()

    def _numbered(self, found: re.Match[str]) -> str:
        return self._numbers.setdefault(found[0], f"{found[1]}_{len(self._numbers)}")


class Stack(NamedTuple):
    """A FinFlow started by `finflow up`: the home it runs in, its URL, and what it printed."""

    home: Path
    url: str
    printed: str

    def environment(self) -> dict[str, str]:
        return _environment(self.home) | {"FINFLOW_URL": self.url}

    def tenant_token(self) -> str:
        """A token of a tenant of its own, as the examples' readers get one."""
        return self._finflow("token", "--tenant", self._finflow("tenant", "create", "Example", "--id"))

    def _finflow(self, *words: str) -> str:
        command = [sys.executable, "-m", "finflow", *words]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def as_documented(self, text: str) -> str:
        """What was printed, with the documents' URL and home folder."""
        return text.replace(self.url, DOCUMENTED_URL).replace(str(self.home), DOCUMENTED_HOME)


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINFLOW_", "XDG_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path, "NO_COLOR": "1", "COLUMNS": "110"}


@contextlib.contextmanager
def started() -> Iterator[Stack]:
    """`finflow up --workers 2` in a home of its own, stopped at the end."""
    home = Path(tempfile.mkdtemp(prefix="ff-"))
    child = subprocess.Popen(
        [sys.executable, "-m", "finflow", "up", "--workers", "2"],
        env=_environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        lines: list[str] = []
        for line in child.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        printed = "".join(lines)
        url = re.search(r"http://[0-9.:]+", printed)
        assert url is not None, child.communicate()[1]
        yield Stack(home, url[0], printed)
    finally:
        child.terminate()
        child.communicate(timeout=60)
        shutil.rmtree(home, ignore_errors=True)


class Terminal:
    """One bash that runs commands one after another."""

    _END = "--end-of-output--"

    def __init__(self, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str) -> str:
        """What the command prints on both outputs."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n%s\\n' {self._END}\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line.rstrip("\n") == self._END:
                break
            lines.append(line)
        return "".join(lines).strip("\n")

    def close(self) -> None:
        """Ends the shell."""
        self._bash.terminate()
        self._bash.communicate()


def answers(document: str, stack: Stack) -> list[str]:
    """What each step of a document prints in truth, with the documents' URL and home folder."""
    terminal = Terminal(stack.environment())
    try:
        return [_answer(step, terminal, stack) for step in steps(document)]
    finally:
        terminal.close()


def _answer(step: Step, terminal: Terminal, stack: Stack) -> str:
    if step.first_terminal:
        return stack.as_documented(stack.printed).rstrip()
    typed = step.typed.replace(DOCUMENTED_URL, stack.url)
    return stack.as_documented(terminal.run(typed)).rstrip()


def rewritten(document: str, printed: list[str]) -> str:
    """The document with this output behind its commands."""
    left = iter(printed)

    def block(found: re.Match[str]) -> str:
        parts = []
        for step in _of_block(found):
            parts.append("$ " + step.typed.replace("\n", "\n> "))
            output = next(left)
            parts += [output] if output else []
        return f"```console{found['title']}\n" + "\n".join(parts) + "\n```"

    return _BLOCK.sub(block, document)


def main(names: list[str]) -> None:
    with started() as stack:
        for name in names:
            path = Path(name)
            text = path.read_text()
            path.write_text(rewritten(text, answers(text, stack)))


if __name__ == "__main__":
    main(sys.argv[1:])
