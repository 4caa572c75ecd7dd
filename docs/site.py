"""A hook of mkdocs: links to files of the repository outside of docs/ lead to the repository."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\]\(\.\./((?!\.\./)[^)#\s]+)")


def on_page_markdown(markdown: str, page: Any, config: Any, **named: Any) -> str:
    """`](../CONTRIBUTING.md` of a page at the top of docs/ becomes the file's address in the repository.

    Decisions lie one folder deeper: their `../` stays, and only `../../` leads outside.
    """
    home = f"{config['repo_url']}/blob/main/"
    if "/" in page.file.src_uri:
        return re.sub(r"\]\(\.\./\.\./([^)#\s]+)", rf"]({home}\1", markdown)
    return OUTSIDE.sub(rf"]({home}\1", markdown)
