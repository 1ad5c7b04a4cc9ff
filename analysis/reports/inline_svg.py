"""A matplotlib figure as SVG that may stand in a web page beside others."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_PIXELS = 96 / 72  # a CSS pixel is 1/96 inch, matplotlib's points are 1/72
_MAX_SCALE = 1.2  # times its size in print, as a screen's text is larger
_MIN_SCALE = 0.9  # … to which it may shrink
_ID_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
_DECIMAL = re.compile(r"-?\d+\.\d{3,}")


def inline_svg(figure: Figure, prefix: str, title: str) -> str:
    """Draw a figure as an `<svg>` element.

    Matplotlib names clip paths and glyphs alike in every file and styles all elements of a document, so that two of its
    drawings in one page would change each other. Here only the names that something refers to stay, behind a prefix,
    and the style is left to the page: `stroke-linejoin: round; stroke-linecap: butt` within the element. Coordinates
    are rounded to a hundredth of a point.

    Args:
        figure: What to draw.
        prefix: What the element's ids begin with; of its own for each figure of a page.
        title: What the drawing shows, for those who do not see it.

    Returns:
        The element, as wide as a screen needs it to be legible (1.2 times the figure's size); it shrinks with what it
        stands in down to 0.9 times.
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
    """Put a prefix before the ids that something refers to, and drop the others."""
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
    """Write outlines and places with two decimals, on one line; scales keep theirs."""
    for element in root.iter():
        for name in ("d", "x", "y"):
            if name in element.attrib:
                short = _DECIMAL.sub(lambda number: f"{float(number[0]):.2f}", element.attrib[name])
                element.attrib[name] = " ".join(short.split())


def _serialize(root: ElementTree.Element) -> str:
    """Write the element without the names of its namespaces, which HTML knows, and without blanks between elements."""
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
