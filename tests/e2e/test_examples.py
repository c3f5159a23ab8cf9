"""Each example prints what lies beside it, against a real FinFlow; ids and times are masked on both sides."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import ROOT, Masks, Stack, started

_STORIES = sorted(path.with_suffix("") for path in (ROOT / "examples").glob("*.out"))
_COMMANDS = {".sh": ["bash"], ".py": [sys.executable]}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with started() as stack:
        yield stack


def _program(story: Path) -> Path:
    [program] = [story.with_suffix(suffix) for suffix in _COMMANDS if story.with_suffix(suffix).exists()]
    return program


def test_there_are_examples_to_run() -> None:
    assert {story.name for story in _STORIES} >= {"first_bank", "holds", "retry"}


@pytest.mark.parametrize("story", _STORIES, ids=lambda story: story.name)
def test_an_example_prints_what_lies_beside_it(story: Path, stack: Stack) -> None:
    program = _program(story)
    command = [*_COMMANDS[program.suffix], str(program)]
    environment = stack.environment() | {"FINFLOW_TOKEN": stack.tenant_token()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = Masks().of(stack.as_documented(done.stdout))
    assert printed == Masks().of(story.with_suffix(".out").read_text())
