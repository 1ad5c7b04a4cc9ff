"""LaTeX tables from a leaderboard, ready for a paper."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.comparisons.leaderboard import leaderboard
from analysis.frame.metric_display import Metric, describe
from analysis.tables.leaderboard_tables import split_board

LATEX_COLUMNS = (
    "accuracy",
    "bpc",
    "nll",
    "ece",
    "ood_auroc",
    "corruption_error",
    "generated/corruption_error",
    "train_cost",
    "predict_cost",
)
"""The columns of a table unless others are asked for, as far as the runs have them."""

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


def latex(
    board: pd.DataFrame,
    metrics: Sequence[str] = LATEX_COLUMNS,
    *,
    caption: str | None = None,
    label: str = "tab:leaderboard",
) -> str:
    r"""Write a `table` environment with booktabs rules: mean and spread, the best of each column in bold.

    The best is the best mean among the methods of one dataset and architecture; means that read the same as
    the best are bold too. Costs, a metric of which neither direction is better, and one that only one
    method has are not set in bold. It needs `\usepackage{booktabs}`.

    Args:
        board: What `leaderboard` returns, or the rows of `load_runs`.
        metrics: The columns, as far as the runs have them.
        caption: LaTeX that replaces the caption written here, which says what is shown and over how many seeds; what
            says that a study was only rehearsed stays.
        label: For `\ref`.
    """
    if "run_id" in board:
        board = leaderboard(board)
    shown = [describe(name) for name in metrics if _has_metric(board, name)]
    cells = list(split_board(board, metrics))
    body = pd.concat([_format_rows(rows, shown) for _, rows, _ in cells], ignore_index=True)
    body.index = pd.Index([escape_latex(str(name)) for name in board["label"]])
    body.columns = pd.Index([_header(metric) for metric in shown])
    written = body.style.to_latex(
        column_format="l" + "r" * len(shown),
        position="tb",
        position_float="centering",
        hrules=True,
        label=label,
        caption=caption + banner_sentence(board)
        if caption
        else _caption(board, [title for title, _, _ in cells], metrics),
    )
    return _insert_section_titles(str(written), cells) if len(cells) > 1 else str(written)


def _insert_section_titles(written: str, cells: Sequence[tuple[str, pd.DataFrame, list[Metric]]]) -> str:
    r"""Put a rule and a title above the rows of each dataset and architecture."""
    head, _, rest = written.partition("\\midrule\n")
    lines = rest.splitlines(keepends=True)
    columns = lines[0].count(" & ") + 1
    body: list[str] = []
    for title, rows, _ in cells:
        body += ["\\midrule\n", f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{escape_latex(title)}}}}} \\\\\n"]
        body += lines[: len(rows)]
        lines = lines[len(rows) :]
    return head + "".join([*body, *lines])


def label_of(name: str) -> str:
    r"""Make of a study's name, or of a source, a table's label for `\ref`: letters and digits, joined by hyphens.

    Letters outside ASCII stay, which LaTeX takes in labels since 2019: of two names, neither may lose all it has.
    """
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return f"tab:{'-'.join(words)}"


def document(*tables: str) -> str:
    """Wrap tables into a document that pdflatex compiles as it is; its pages are as high as the longest table needs.

    Args:
        tables: What `latex` returned.
    """
    height = max([210, *(60 + 4 * table.count("\\\\\n") for table in tables)])  # mm; A4, and 4 mm a row
    parts = ["\n".join(tables[i : i + _MAX_FLOATS]) for i in range(0, len(tables), _MAX_FLOATS)]
    return _PREAMBLE.replace("HEIGHT", str(height)) + "\\clearpage\n".join(parts) + "\\end{document}\n"


def escape_latex(text: str) -> str:
    r"""Write a name so that LaTeX prints it as it is.

    Greek letters and a few signs become math; of other characters outside Latin scripts, which pdflatex cannot
    print, a question mark remains.
    """
    written = "".join(_LATEX_OF.get(character) or _plain_latin(character) for character in text)
    return "{}" + written if written.startswith(("[", "*")) else written  # else an option of the row break before it


def _plain_latin(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    name = unicodedata.name(character, "")
    if name.startswith("LATIN") and ord(character) < 0x100 and character not in "ÐðÞþ":
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_LATEX_OF.get(c, c) for c in plain) or "?"


def _has_metric(board: pd.DataFrame, name: str) -> bool:
    return f"{name}_mean" in board and bool(board[f"{name}_mean"].notna().any())


def _header(metric: Metric) -> str:
    arrow = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}[metric.better]
    return f"{escape_latex(metric.header)}{arrow}"


def _format_rows(rows: pd.DataFrame, shown: Sequence[Metric]) -> pd.DataFrame:
    """The figures of one dataset and architecture as LaTeX."""
    columns = {}
    for metric in shown:
        means = [metric.format_value(float(mean)) for mean in rows[f"{metric.name}_mean"]]
        best = best_mean(means, metric)
        stds = [metric.format_std(float(std)) for std in rows[f"{metric.name}_std"]]
        columns[metric.name] = [
            _format_figure(mean, std if metric.spread else "", bold=mean == best)
            for mean, std in zip(means, stds, strict=True)
        ]
    return pd.DataFrame(columns)


def best_mean(means: Sequence[str], metric: Metric) -> str | None:
    """Find the best mean as it is written, so that entries which read the same are treated the same.

    Args:
        means: As `Metric.write` gives them.
        metric: Of which they are.

    Returns:
        One of them; None for costs, where neither direction is better, and if there is only one.
    """
    present = [mean for mean in means if mean]
    if metric.better is None or not metric.spread or len(present) < 2:
        return None
    return (max if metric.better == "higher" else min)(present, key=float)


def _format_figure(mean: str, std: str, *, bold: bool) -> str:
    if not mean:
        return "--"
    spread = f" \\pm {std}" if std != "n/a" else r" \pm \mathrm{n/a}"
    figure = (mean + spread if std else mean).replace("inf", r"\infty")
    return f"$\\mathbf{{{figure}}}$" if bold else f"${figure}$"


def _caption(board: pd.DataFrame, titles: Sequence[str], metrics: Sequence[str]) -> str:
    counts = sorted(int(n) for n in board["n"].unique())
    if len(counts) == 1:
        over = f"$n = {counts[0]}$ seed{'s' if counts[0] > 1 else ''}"
    else:
        over = f"$n = {counts[-1]}$ seeds (fewer for {_name_entries_with_fewer_seeds(board, titles)})"
    where = f"{escape_latex(titles[0])}, " if len(titles) == 1 else ""
    split = escape_latex(str(board["evaluated_on"].iloc[0]))
    split = split if where else split.capitalize()
    within = "" if len(titles) == 1 else " of each dataset and architecture"
    return (
        f"{where}{split} data: mean $\\pm$ sample standard deviation over {over}. "
        f"The best mean of each metric{within} is bold."
        f"{_tuning_sentences(board)}{_incomplete_metric_sentences(board, titles, metrics)}{_left_out_sentence(board)}{_warning_sentences(board)}"
    )


def _name_entries_with_fewer_seeds(board: pd.DataFrame, titles: Sequence[str]) -> str:
    """Name the entries with fewer seeds than the others, and how many they have."""
    rows = board[board["n"] < board["n"].max()].to_dict("records")
    return "; ".join(f"{_entry_name(row, titles)}: {row['n']}" for row in rows)


def _incomplete_metric_sentences(board: pd.DataFrame, titles: Sequence[str], metrics: Sequence[str]) -> str:
    """Name the entries whose mean of one metric is over fewer seeds than n."""
    named = [
        f" {_entry_name(entry, titles)}: {escape_latex(describe(entry['metric']).title)} from {entry['present']} seeds."
        for entry in board.attrs.get("partial", [])
        if entry["metric"] in metrics
    ]
    return "".join(named)


def _tuning_sentences(board: pd.DataFrame) -> str:
    """Say which values were tuned, and with how much, and that a rehearsal is no result."""
    return (f" {escape_latex(note)}" if (note := board.attrs.get("tuning")) else "") + banner_sentence(board)


def banner_sentence(frame: pd.DataFrame) -> str:
    """Say, at the end of a caption, that a rehearsal is no result; nothing for real runs."""
    return f" {escape_latex(note)}" if (note := frame.attrs.get("banner")) else ""


def _left_out_sentence(board: pd.DataFrame) -> str:
    """Say which runs the table leaves out because they were chosen on test data."""
    return f" {escape_latex(note)}" if (note := board.attrs.get("left_out")) else ""


def _warning_sentences(board: pd.DataFrame) -> str:
    """Say what a reader must not overlook: runs that are not finished, and too few seeds."""
    warnings = [note for note in board.attrs.get("notes", []) if note.startswith(("Not shown, ", "Warning: "))]
    told = [note for note in warnings if "Δ" not in note]  # no differences stand here
    return "".join(f" {escape_latex(note)}" for note in told)


def _entry_name(row: Mapping[Any, object], titles: Sequence[str]) -> str:
    where = "" if len(titles) == 1 else f" on {row['dataset']}, {row['architecture']}"
    return escape_latex(f"{row['label']}{where}")
