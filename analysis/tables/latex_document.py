"""Makes LaTeX documents and table labels, and escapes text for LaTeX."""

from __future__ import annotations

import unicodedata

import pandas as pd

_LATEX_OF = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "∞": r"$\infty$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
}


_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho finalsigma "
    "sigma tau upsilon phi chi psi omega"
)


_CAPITAL_NAMES = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"


_LETTERS_WITHOUT_COMMAND = {"omicron": "o", "finalsigma": r"\varsigma"}


_LATEX_OF |= {
    chr(ord("α") + i): "$" + _LETTERS_WITHOUT_COMMAND.get(name, "\\" + name) + "$"
    for i, name in enumerate(_GREEK_NAMES.split())
}


_LATEX_OF |= dict(zip("ΓΔΘΛΞΠΣΦΨΩ", (f"$\\{n}$" for n in _CAPITAL_NAMES.split()), strict=True))


_MAX_FLOATS = 20  # tables that LaTeX has to keep until it finds a place for them; it can keep about fifty
r"""Tables between two `\clearpage`: LaTeX can hold only about fifty tables that are not placed yet."""


_PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[paperwidth=297mm,paperheight=HEIGHTmm,margin=1.5cm]{geometry}
\usepackage{booktabs}
\usepackage{etoolbox}
\AtBeginEnvironment{tabular}{\footnotesize}
\setlength{\tabcolsep}{4pt}
\setlength{\belowcaptionskip}{6pt}
\begin{document}
"""


def label_of(name: str) -> str:
    r"""Make a table's label for `\ref` from the name of a study or source: letters and digits, joined by hyphens.

    Letters outside ASCII are kept, so that no name becomes empty; LaTeX allows them in labels since 2019.
    """
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return f"tab:{'-'.join(words)}"


def document(*tables: str) -> str:
    """Wrap tables in a document that pdflatex can compile. Its pages are as high as the longest table needs.

    Args:
        tables: What `latex` returned.
    """
    height = max([210, *(60 + 4 * table.count("\\\\\n") for table in tables)])  # mm; at least A4, 4 mm per row
    parts = ["\n".join(tables[i : i + _MAX_FLOATS]) for i in range(0, len(tables), _MAX_FLOATS)]
    return _PREAMBLE.replace("HEIGHT", str(height)) + "\\clearpage\n".join(parts) + "\\end{document}\n"


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX prints it unchanged.

    Greek letters and some symbols become math. Characters outside Latin scripts, which pdflatex cannot print, become a
    question mark.
    """
    written = "".join(_LATEX_OF.get(character) or _plain_latin(character) for character in text)
    return (
        "{}" + written if written.startswith(("[", "*")) else written
    )  # else LaTeX reads it as an option of the preceding \\


def _plain_latin(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    name = unicodedata.name(character, "")
    if name.startswith("LATIN") and ord(character) < 0x100 and character not in "ÐðÞþ":
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_LATEX_OF.get(c, c) for c in plain) or "?"


def banner_sentence(frame: pd.DataFrame) -> str:
    """Return a sentence that ends a caption and says that the runs are a rehearsal; "" for real runs."""
    return f" {escape_latex(note)}" if (note := frame.attrs.get("banner")) else ""
