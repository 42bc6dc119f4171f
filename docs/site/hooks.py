"""What mkdocs calls while it builds the site, so that the site needs no network."""

from __future__ import annotations

import re
from typing import Any

import mermaidx
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"")


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Draw a page's mermaid pictures as SVG files, which no script has to draw in the browser.

    Args:
        markdown: the page as it is written.
        page: whose.
        config: the site's.
        files: the site's; the pictures are added.

    Returns:
        The page with links to its pictures.
    """

    def drawn(block: re.Match[str]) -> str:
        name = f"{page.file.name}-{block.start()}.svg"
        folder = page.file.src_uri.rpartition("/")[0]
        svg = mermaidx.render(block[1]).svg()
        files.append(File.generated(config, f"{folder}/{name}", content=svg))
        return f"![picture]({name})"

    return MERMAID.sub(drawn, markdown)


def on_post_page(output: str, page: Page, config: Any) -> str:
    """Let no page load anything from elsewhere.

    Args:
        output: the page's HTML.
        page: which.
        config: the site's.

    Returns:
        The same.

    Raises:
        PluginError: it would; the build ends.
    """
    if foreign := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} would load {foreign[0]}: keep a copy in docs/site")
    return output
