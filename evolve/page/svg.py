"""A matplotlib figure as SVG inside an HTML page: text stays text, ids do not meet those of other figures, the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from evolve import figures

NAMESPACE = re.compile(r"^\{[^}]*\}")
REFERENCE = re.compile(r"url\(#([^)]*)\)")
DROPPED = ("metadata", "style")  # the style holds two rules for the whole page; they stand on the figure instead
ROUND = "stroke-linejoin: round; stroke-linecap: butt"


def inline(draw: Callable[[], Any], name: str, alt: str) -> str:
    """The figure that ``draw`` makes as an <svg> element, to be placed in HTML as it is.

    ``name``: what the ids begin with, unique on the page; ``alt``: what a screen reader says in its place.
    """

    def with_text() -> Any:
        import matplotlib

        # Inside figures.encode's own settings: text as text, and a "$" in a name is no formula.
        matplotlib.rcParams.update({"svg.fonttype": "none", "text.parse_math": False})
        return draw()

    root = ElementTree.fromstring(figures.encode(with_text, "svg"))
    _tidy(root, name)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": alt, "style": ROUND}
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element, name: str) -> None:
    """Take namespaces away (HTML knows svg), and let every id and reference begin with ``name``."""
    element.tag = NAMESPACE.sub("", element.tag)
    found = {NAMESPACE.sub("", key): value for key, value in element.attrib.items()}
    if "id" in found:
        found["id"] = f"{name}-{found['id']}"
    if found.get("href", "").startswith("#"):
        found["href"] = f"#{name}-{found['href'][1:]}"
    element.attrib.clear()
    element.attrib.update({key: REFERENCE.sub(rf"url(#{name}-\1)", value) for key, value in found.items()})
    for child in list(element):
        if NAMESPACE.sub("", child.tag) in DROPPED:
            element.remove(child)
        else:
            _tidy(child, name)
