"""The README is short, and every command in it exists."""

import re
from pathlib import Path

import click
import pytest

from finflow import cli

_ROOT = Path(__file__).parents[2]
_README = _ROOT / "README.md"


def _commands() -> list[str]:
    """The lines of the README's shell blocks that a reader would type."""
    blocks = re.findall(
        r"^```(?:sh|bash|shell|console)\n(.*?)^```", _README.read_text(), re.MULTILINE | re.DOTALL
    )
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(make|finflow|\.venv/bin/finflow) ", line)]


def test_it_is_short() -> None:
    assert len(_README.read_text().splitlines()) <= 120


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for line in _commands() if line.startswith("make ") for word in line.split()[1:2]}
    assert named - targets == set()


@pytest.mark.parametrize("line", [line for line in _commands() if "finflow " in line])
def test_its_finflow_commands_exist(line: str) -> None:
    words = re.split(r"\s+[|>&;#]", line)[0].split()[1:]
    group: click.Command = cli.finflow
    while words and isinstance(group, click.Group) and not words[0].startswith("-"):
        found = group.get_command(click.Context(group), words[0])
        assert found is not None, f"finflow has no command {words[0]}"
        group, words = found, words[1:]
    known = {option for each in group.params for option in (*each.opts, *each.secondary_opts)} | {
        "--help",
        "--version",
    }
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used - known == set()
