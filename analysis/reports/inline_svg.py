"""Renders a matplotlib figure as SVG that can be embedded in a web page together with others."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_PIXELS = 96 / 72  # CSS pixels per point: a pixel is 1/96 inch, a point 1/72
_MAX_SCALE = 1.2  # relative to the size in print, because text is larger on a screen
_MIN_SCALE = 0.9  # relative to the size in print
_ID_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
_DECIMAL = re.compile(r"-?\d+\.\d{3,}")


def inline_svg(figure: Figure, prefix: str, title: str) -> str:
    """Render a figure as an `<svg>` element.

    Matplotlib gives clip paths and glyphs the same ids in every file, and its styles apply to the whole document, so
    two unmodified drawings in one page would affect each other. Therefore only ids that are referenced are kept, with a
    prefix, and the style is removed; the page must set `stroke-linejoin: round; stroke-linecap: butt` for the element.
    Coordinates are rounded to a hundredth of a point.

    Args:
        figure: The figure.
        prefix: The prefix of the element's ids, different for each figure of a page.
        title: A description for readers who cannot see the drawing.

    Returns:
        The element, 1.2 times as large as the figure in print so that it is legible on a screen. It shrinks with its
        container down to 0.9 times.
    """
    root = ElementTree.fromstring(_render_svg(figure))
    for part in list(root):
        if part.tag == f"{_SVG}metadata" or part.find(f"{_SVG}style") is not None:
            root.remove(part)
    _prefix_ids(root, prefix)
    _round_coordinates(root)
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{_MAX_SCALE * width * _PIXELS:.0f}",
        "height": f"{_MAX_SCALE * height * _PIXELS:.0f}",
        "style": f"min-width: {_MIN_SCALE * width * _PIXELS:.0f}px; max-width: 100%",
        "role": "img",
        "aria-labelledby": f"{prefix}title",
    }
    named = ElementTree.Element(f"{_SVG}title", {"id": f"{prefix}title"})
    named.text = title
    root.insert(0, named)
    return _serialize(root)


def _render_svg(figure: Figure) -> str:
    from analysis.figures.style import plot_style

    file = io.StringIO()
    with plot_style():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _prefix_ids(root: ElementTree.Element, prefix: str) -> None:
    """Add a prefix to the ids that are referenced, and remove the others."""
    used: set[str] = set()
    for element in root.iter():
        if _XLINK in element.attrib:
            element.attrib["href"] = element.attrib.pop(_XLINK)
        for name, value in element.attrib.items():
            if found := _ID_REFERENCE.search(value):
                used.add(found[1] or found[2])
                element.attrib[name] = value.replace(f"#{found[1] or found[2]}", f"#{prefix}{found[1] or found[2]}")
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name in used:
            element.attrib["id"] = prefix + name


def _round_coordinates(root: ElementTree.Element) -> None:
    """Round paths and positions to two decimals and write each on one line; transforms keep their precision."""
    for element in root.iter():
        for name in ("d", "x", "y"):
            if name in element.attrib:
                short = _DECIMAL.sub(lambda number: f"{float(number[0]):.2f}", element.attrib[name])
                element.attrib[name] = " ".join(short.split())


def _serialize(root: ElementTree.Element) -> str:
    """Serialize the element without namespaces, which HTML does not need, and without whitespace between elements."""
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
