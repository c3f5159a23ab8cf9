"""The pages that come from code are what the code says now, and every link between pages leads somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
_PAGES = sorted([*_DOCS.rglob("*.md"), *_ROOT.glob("*.md")])


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", _DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_WRITTEN: dict[str, str] = _generator().pages()


@pytest.mark.parametrize("name", sorted(_WRITTEN))
def test_the_committed_page_is_the_generated_one(name: str) -> None:
    assert (_DOCS / name).read_text() == _WRITTEN[name], "run `.venv/bin/python docs/generate.py`"


def test_the_map_leads_to_lines_of_the_code() -> None:
    journeys = (_DOCS / "map.md").read_text().partition("## The house")[0].split("\n## ")[1:]
    lines = re.compile(r"^\d+\. .*\(\.\./src/finflow/[\w/]+\.\w+#L\d+\)", re.MULTILINE)
    assert [len(lines.findall(journey)) for journey in journeys] == [10, 10]


def _anchors(page: Path) -> set[str]:
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.finditer(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        path, _, anchor = link["target"].partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            dead.append(link["target"])
    assert dead == []
