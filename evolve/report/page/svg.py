"""A matplotlib figure as SVG inside an HTML page.

Text stays text, ids do not meet those of other figures, and the bytes are the same every time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from typing import Any
from xml.etree import ElementTree

from evolve.report import figures
from evolve.report.page.tips import MARK

NAMESPACE = re.compile(r"^\{[^}]*\}")
REFERENCE = re.compile(r"url\(#([^)]*)\)")
LINK = "{http://www.w3.org/1999/xlink}href"
# The style holds two rules for the whole page; they stand on the figure instead.
DROPPED = ("metadata", "style")
ROUND = "stroke-linejoin: round; stroke-linecap: butt"
# On a dark page the paper is dark and what is black becomes light: the variables of page.css.
INKS = {
    "#000000": "ink",
    "#333333": "soft",
    "#666666": "grey",
    "#ffffff": "paper",
    "#0072b2": "blue",
}
INK = re.compile("|".join(INKS))


def inline(draw: Callable[[], Any], name: str, alt: str, themed: bool = True) -> str:
    """Draw a figure as an <svg> element, to be placed in HTML as it is.

    Args:
        draw: makes the figure.
        name: what the ids begin with, unique on the page.
        alt: what a screen reader says in its place.
        themed: whether black and white follow the page's colours. A picture whose scale ends in
            white stands on white paper also on a dark page.
    """

    def with_text() -> Any:
        import matplotlib

        # Inside figures.encode's own settings: text as text, and a "$" in a name is no formula.
        matplotlib.rcParams.update({"svg.fonttype": "none", "text.parse_math": False})
        return draw()

    root = ElementTree.fromstring(figures.encode(with_text, "svg"))
    used = {
        target
        for element in root.iter()
        for value in element.attrib.values()
        for target in REFERENCE.findall(value)
    }
    used |= {
        element.attrib[LINK].removeprefix("#") for element in root.iter() if LINK in element.attrib
    }
    _tidy(root, name, used)
    if themed:
        _follow_page(root)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": alt, "style": ROUND}
    if not themed:
        root.attrib["class"] = "white"
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element, name: str, used: Set[str]) -> None:
    """Take namespaces away, which HTML does not need, and spaces.

    Every id that something refers to begins with ``name``; the others are dropped.
    """
    element.tag = NAMESPACE.sub("", element.tag)
    attributes = {
        NAMESPACE.sub("", key): " ".join(REFERENCE.sub(rf"url(#{name}-\1)", value).split())
        for key, value in element.attrib.items()
    }
    if attributes.get("href", "").startswith("#"):
        attributes["href"] = f"#{name}-{attributes['href'][1:]}"
    if attributes.get("id", "").startswith(MARK):
        title = ElementTree.Element("title")
        title.text = attributes.pop("id").removeprefix(MARK)
        element.insert(0, title)
    elif "id" in attributes and attributes["id"] in used:
        attributes["id"] = f"{name}-{attributes['id']}"
    else:
        attributes.pop("id", None)
    element.attrib.clear()
    element.attrib.update(attributes)
    element.text, element.tail = _text(element.text), _text(element.tail)
    for child in list(element):
        if NAMESPACE.sub("", child.tag) in DROPPED:
            element.remove(child)
        else:
            _tidy(child, name, used)


def _follow_page(root: ElementTree.Element) -> None:
    """Black, white and the greys of text become the page's own; the colours of data stay."""
    for element in root.iter():
        style = element.attrib.get("style", "")
        if element.tag == "text" and "fill:" not in style:
            style = f"fill: #000000; {style}"
        if style:
            element.attrib["style"] = INK.sub(lambda match: f"var(--{INKS[match[0]]})", style)


def _text(text: str | None) -> str | None:
    return text if text and text.strip() else None
