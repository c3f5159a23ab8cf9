"""The TypeScript example: types generated from the live document, a strict type check, a run against FinFlow.

Skipped where Node, npm or the packages are not to be had; a fault in the document or in the example fails it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import ROOT, Stack, started

_EXAMPLE = ROOT / "examples" / "typescript"
_MADE = ("node_modules", "dist", "finflow.d.ts")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its packages, as they are locked."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    if int((re.match(r"v(\d+)", version) or ["", "0"])[1]) < 20:
        pytest.skip(f"the example needs Node 20, this is {version.strip()}")
    folder = tmp_path_factory.mktemp("typescript") / "example"
    shutil.copytree(_EXAMPLE, folder, ignore=shutil.ignore_patterns(*_MADE))
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci found no registry in time")
    if re.search(r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENOTCACHED)\b", done.stderr):
        pytest.skip("npm reaches no registry")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def stack(project: Path) -> Iterator[Stack]:
    with started() as stack:
        yield stack


@pytest.fixture(scope="module")
def generated(project: Path, stack: Stack) -> Path:
    done = _npm(project, stack, "run", "generate")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def _npm(project: Path, stack: Stack, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = stack.environment() | {"HOME": os.environ["HOME"], "FINFLOW_TOKEN": stack.tenant_token()}
    return subprocess.run(
        ["npm", "--silent", *words], cwd=project, env=environment, capture_output=True, text=True, timeout=240
    )


def test_the_example_type_checks_against_the_document(generated: Path, stack: Stack) -> None:
    done = _npm(generated, stack, "run", "check")
    assert done.returncode == 0, done.stdout


def test_a_misspelt_field_does_not_type_check(generated: Path, stack: Stack) -> None:
    wrong = generated / "wrong.ts"
    wrong.write_text(
        'import type { Schemas } from "./client.js";\n'
        'export const wrong: Schemas["NewTenant"] = { nam: "x" };\n'
    )
    done = _npm(generated, stack, "run", "check")
    wrong.unlink()
    assert done.returncode != 0
    assert "wrong.ts(2" in done.stdout


def test_it_prints_what_lies_beside_it(generated: Path, stack: Stack) -> None:
    built = _npm(generated, stack, "run", "build")
    assert built.returncode == 0, built.stdout
    done = _npm(generated, stack, "start")
    assert (done.returncode, done.stdout) == (0, (_EXAMPLE / "first-bank.txt").read_text()), done.stderr
