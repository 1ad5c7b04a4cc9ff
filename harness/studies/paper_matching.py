"""Matches each published value of a paper's table with the cells of a study that reproduce it."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from harness.parsing.yaml_errors import Errors, suggest_closest
from harness.studies.grid import CellGroup
from harness.studies.metric_names import check_metric, metric_names
from harness.studies.paper_values import Axis, Paper, PublishedValue, Selection, read_value

if TYPE_CHECKING:
    import pandas as pd


class PaperComparison(NamedTuple):
    """A published value, and the cells of the study to compare with it.

    Attributes:
        row: name of the row in the paper's table.
        column: name of the column in the paper's table.
        group: index of the cell group in the study; None if the study cannot reproduce the value, as a note explains.
        metric: metric of these cells to compare.
        times: factor between the study's unit and the paper's unit.
        published: the published value; None if the paper gives none.
        seeds: number of runs behind the published value; 0 if the paper does not state it.
        notes: remarks that a reader must know.
    """

    row: str
    column: str
    group: int | None
    metric: str
    times: float
    published: PublishedValue | None
    seeds: int
    notes: tuple[str, ...]


NOT_RUN = "none"
"""The method that a row selects if the study cannot run it, such as a value that the paper quotes from elsewhere."""


def match_cell_groups(paper: Paper, groups: Sequence[CellGroup]) -> list[PaperComparison]:
    """Find the cell group of a study for each value of a paper's table.

    Raises:
        ValueError: if a value has no cell group or several; the message names row and column.
    """
    found = []
    for row, line in zip(paper.rows, paper.values, strict=True):
        for column, value in zip(paper.columns, line, strict=True):
            selects = merge_selections(paper, row, column)
            published = read_value(value)
            try:
                group = find_cell_group(selects, groups)
            except ValueError as error:
                if published:
                    raise ValueError(f"row {row.name}, column {column.name}: {error}") from error
                group = None  # without a published value, no cells are needed
            notes = tuple(
                note.text for note in paper.notes if note.row in (None, row.name) and note.column in (None, column.name)
            )
            usual = paper.seeds if (published and published.std is not None) or paper.spread else 1
            seeds = int(selects.get("runs", usual))
            metric, times = str(selects["metric"]), float(selects["times"])
            found.append(PaperComparison(row.name, column.name, group, metric, times, published, seeds, notes))
    return found


def merge_selections(paper: Paper, row: Axis, column: Axis) -> dict[str, Any]:
    """Merge the selections of the table, a row and a column. The column has priority over the row."""
    usual = {"metric": "accuracy", "times": 1.0}
    by_name = {} if row.selects.method or column.selects.method or paper.select.method else {"method": row.name}
    parts = [each.model_dump(exclude_none=True) for each in (paper.select, row.selects, column.selects)]
    selects = usual | by_name | parts[0] | parts[1] | parts[2]
    method = str(selects["method"]).replace("{row}", row.name).replace("{column}", column.name)
    return selects | {"method": method}


def find_cell_group(selects: Mapping[str, Any], groups: Sequence[CellGroup]) -> int | None:
    """Return the index of the cell group that a selection means; None if the study does not run it.

    Raises:
        ValueError: if no cell group fits, or more than one.
    """
    if selects["method"] == NOT_RUN:
        return None
    fitting = [
        i
        for i, group in enumerate(groups)
        if group.entry.label == selects["method"] and selects.get("architecture") in (None, group.architecture)
    ]
    if dataset := selects.get("dataset"):
        exactly = [i for i in fitting if groups[i].dataset.label == dataset]
        fitting = exactly or [i for i in fitting if groups[i].dataset.name == dataset]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"it means {' and '.join(' · '.join(groups[i].name) for i in fitting)}: say which")
    wanted = " · ".join(str(selects[key]) for key in ("dataset", "architecture", "method") if key in selects)
    raise ValueError(f"the study has no {wanted!r}; {suggest_closest(wanted, [' · '.join(p.name) for p in groups])}")


def check_paper(
    raw: Any, groups: Sequence[CellGroup], errors: Errors
) -> tuple[Paper, tuple[PaperComparison, ...]] | None:
    """Read the key `paper` of a study and match its values with cell groups.

    Returns:
        The paper's table and the comparisons; None if there are errors, which are reported.
    """
    if raw is None:
        errors.add(("paper",), "it is empty; write what the paper states, or leave it out")
        return None
    try:
        paper = Paper.model_validate(raw)
    except ValidationError as error:
        errors.add_validation_errors(raw, error, ("paper",))
        return None
    check_metrics(paper, groups, errors)
    try:
        return paper, tuple(match_cell_groups(paper, groups))
    except ValueError as error:
        errors.add(("paper",), str(error))
        return None


def check_metrics(paper: Paper, groups: Sequence[CellGroup], errors: Errors) -> None:
    """Report metrics that a table selects but no run can have."""
    selecting: list[tuple[tuple[str | int, ...], Selection]] = [(("select",), paper.select)]
    for what, axes in (("rows", paper.rows), ("columns", paper.columns)):
        selecting += [((what, i), axis.selects) for i, axis in enumerate(axes)]
    if not any(selects.metric for _, selects in selecting):
        return
    known = metric_names(groups)
    for location, selects in selecting:
        try:
            if selects.metric is not None:
                check_metric(selects.metric, known)
        except ValueError as error:
            errors.add(("paper", *location), str(error))


def comparison_table(
    paper: Paper, comparisons: Sequence[PaperComparison], groups: Sequence[CellGroup]
) -> "pd.DataFrame":
    """Return the published values as a table for `analysis.compare`, one row a value.

    Args:
        paper: the paper's table.
        comparisons: result of `match_cell_groups`.
        groups: cell groups of the study, or of its rehearsal in the same order.
    """
    import pandas as pd

    rows = []
    for value in comparisons:
        group = None if value.group is None else groups[value.group]
        dataset, architecture, label = group.name if group else ("", "", "")
        published = value.published or PublishedValue("", math.nan, None, 2)
        rows.append(
            {
                "row": value.row,
                "column": value.column,
                "dataset": dataset,
                "architecture": architecture,
                "label": label,
                "metric": metric_of_group(value.metric, group),
                "times": value.times,
                "stated": published.text,
                "paper_mean": published.mean,
                "paper_std": math.nan if published.std is None else published.std,
                "paper_n": value.seeds if value.published else 0,
                "decimals": published.decimals,
                "note": " ".join(value.notes),
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs = {"source": paper.source, "seeds": paper.seeds, "spread": paper.spread, "remark": paper.remark}
    return frame


def metric_of_group(metric: str, group: CellGroup | None) -> str:
    """Return the name under which the runs of a cell group track a metric.

    Metrics on generated corruptions have the prefix "generated/".
    """
    generated = group is not None and group.dataset.corruptions == "generated"
    return f"generated/{metric}" if generated and metric.startswith(("corruption_error", "relative_change")) else metric
