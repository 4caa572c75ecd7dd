"""A hook of mkdocs: links to files outside of docs/ lead to the repository, and lists are lists where GitHub has them."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\]\(\.\./((?!\.\./)[^)#\s]+)")
BEFORE_LIST = re.compile(r"^((?![-#|>\s]|\d+\. |```).*\S)\n(?=(?:-|1\.) )", re.MULTILINE)  # prose right above a list


def on_page_markdown(markdown: str, page: Any, config: Any, **named: Any) -> str:
    """`](../CONTRIBUTING.md` of a page at the top of docs/ becomes the file's address in the repository.

    Decisions and results lie one folder deeper: their `../` stays, and only `../../` leads outside. A list right below a line of
    prose gets the blank line that this Markdown wants.
    """
    markdown = BEFORE_LIST.sub(r"\1\n\n", markdown)
    home = f"{config['repo_url']}/blob/main/"
    if "/" in page.file.src_uri:
        return re.sub(r"\]\(\.\./\.\./([^)#\s]+)", rf"]({home}\1", markdown)
    return OUTSIDE.sub(rf"]({home}\1", markdown)
