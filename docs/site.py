"""A hook of mkdocs: links from a page into the repository become links to the repository, or plain words.

In a clone the pages link to the code beside them; the site has no code. With `repo_url` in mkdocs.yml the
links lead there.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[(?P<words>[^\]\n]+)\]\((?P<target>(?:\.\./)+[^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page with its links that leave the docs folder led elsewhere."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def elsewhere(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["target"]))
        if target.startswith("docs/"):
            return link[0]
        if not config.repo_url:
            return link["words"]
        return f"[{link['words']}]({config.repo_url.rstrip('/')}/blob/main/{target})"

    return _LINK.sub(elsewhere, markdown)
