"""The commands of the tutorial and of the how-to pages do what the pages say, against a real FinFlow."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from console import ROOT, Masks, Stack, answers, started, steps

_PAGES = sorted(
    page
    for folder in ("tutorial", "howto")
    for page in (ROOT / "docs" / folder).glob("*.md")
    if steps(page.read_text())
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with started() as stack:
        yield stack


def test_there_are_pages_to_run() -> None:
    assert ROOT / "docs" / "tutorial" / "first-transaction.md" in _PAGES


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_it_says(page: Path, stack: Stack) -> None:
    document = page.read_text()
    promised, printed = Masks(), Masks()
    for step, answer in zip(steps(document), answers(document, stack), strict=True):
        assert printed.of(answer) == promised.of(step.printed), step.typed


def test_the_first_rollout_shows_the_files_that_it_takes() -> None:
    document = (ROOT / "docs" / "tutorial" / "your-first-rollout.md").read_text()
    for name in ("shop-1.0.py", "rollout.yaml"):
        assert f'title="{name}"\n{(ROOT / "examples" / "rollout" / name).read_text()}```\n' in document, name
