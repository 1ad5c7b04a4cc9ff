"""A paper's figures beside a study's: which cells stand beside each value."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from harness.parsing.method_expression import closest
from harness.parsing.yaml_errors import Errors
from harness.studies.grid import Place
from harness.studies.metric_names import check_metric, metric_names
from harness.studies.paper_values import Axis, Paper, Selection, Stated, read_value

if TYPE_CHECKING:
    import pandas as pd


class Beside(NamedTuple):
    """A value of the paper, and the figures of the study that stand beside it.

    Attributes:
        row: its name in the paper's table; so is `column`.
        place: the number of the cells' place in the study; None where it cannot run what the paper did, as a note says.
        metric: of these cells.
        times: the factor between our unit and the paper's.
        stated: what the paper states; None for nothing.
        seeds: of the paper's value; 0 where it does not say how many.
        notes: what a reader must know.
    """

    row: str
    column: str
    place: int | None
    metric: str
    times: float
    stated: Stated | None
    seeds: int
    notes: tuple[str, ...]


NOT_RUN = "none"
"""What a row selects as its method if the study cannot run it: a value that the paper quotes from elsewhere."""


def match(paper: Paper, places: Sequence[Place]) -> list[Beside]:
    """Find for each value of a paper's table the cells of a study that it stands beside.

    Raises:
        ValueError: if there are none, or if several cells fit, naming the row and the column.
    """
    found = []
    for row, line in zip(paper.rows, paper.values, strict=True):
        for column, value in zip(paper.columns, line, strict=True):
            selects = selection(paper, row, column)
            stated = read_value(value)
            try:
                place = find(selects, places)
            except ValueError as error:
                if stated:
                    raise ValueError(f"row {row.name}, column {column.name}: {error}") from error
                place = None  # nothing stands beside nothing
            notes = tuple(
                note.text for note in paper.notes if note.row in (None, row.name) and note.column in (None, column.name)
            )
            usual = paper.seeds if (stated and stated.std is not None) or paper.spread else 1
            seeds = int(selects.get("runs", usual))
            metric, times = str(selects["metric"]), float(selects["times"])
            found.append(Beside(row.name, column.name, place, metric, times, stated, seeds, notes))
    return found


def selection(paper: Paper, row: Axis, column: Axis) -> dict[str, Any]:
    """Put together what a row and a column select; the column's words count before the row's."""
    usual = {"metric": "accuracy", "times": 1.0}
    by_name = {} if row.selects.method or column.selects.method or paper.select.method else {"method": row.name}
    parts = [each.model_dump(exclude_none=True) for each in (paper.select, row.selects, column.selects)]
    selects = usual | by_name | parts[0] | parts[1] | parts[2]
    method = str(selects["method"]).replace("{row}", row.name).replace("{column}", column.name)
    return selects | {"method": method}


def find(selects: Mapping[str, Any], places: Sequence[Place]) -> int | None:
    """Find the number of the one place in a study that a selection means.

    Raises:
        ValueError: if there is none, or more than one.
    """
    if selects["method"] == NOT_RUN:
        return None
    fitting = [
        i
        for i, place in enumerate(places)
        if place.entry.label == selects["method"] and selects.get("architecture") in (None, place.architecture)
    ]
    if dataset := selects.get("dataset"):
        exactly = [i for i in fitting if places[i].dataset.label == dataset]
        fitting = exactly or [i for i in fitting if places[i].dataset.name == dataset]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"it means {' and '.join(' · '.join(places[i].name) for i in fitting)}: say which")
    wanted = " · ".join(str(selects[key]) for key in ("dataset", "architecture", "method") if key in selects)
    raise ValueError(f"the study has no {wanted!r}; {closest(wanted, [' · '.join(p.name) for p in places])}")


def check_paper(raw: Any, places: Sequence[Place], errors: Errors) -> tuple[Paper, tuple[Beside, ...]] | None:
    """Read the key `paper` of a study and what stands beside it, or report what is wrong with it."""
    if raw is None:
        errors.add(("paper",), "it is empty; write what the paper states, or leave it out")
        return None
    try:
        paper = Paper.model_validate(raw)
    except ValidationError as error:
        errors.report(raw, error, ("paper",))
        return None
    check_metrics(paper, places, errors)
    try:
        return paper, tuple(match(paper, places))
    except ValueError as error:
        errors.add(("paper",), str(error))
        return None


def check_metrics(paper: Paper, places: Sequence[Place], errors: Errors) -> None:
    """Report metrics that a table selects and no run can have."""
    selecting: list[tuple[tuple[str | int, ...], Selection]] = [(("select",), paper.select)]
    for what, axes in (("rows", paper.rows), ("columns", paper.columns)):
        selecting += [((what, i), axis.selects) for i, axis in enumerate(axes)]
    if not any(selects.metric for _, selects in selecting):
        return
    known = metric_names(places)
    for place, selects in selecting:
        try:
            if selects.metric is not None:
                check_metric(selects.metric, known)
        except ValueError as error:
            errors.add(("paper", *place), str(error))


def tabulate(paper: Paper, beside: Sequence[Beside], places: Sequence[Place]) -> "pd.DataFrame":
    """Give a paper's values as `analysis.compare` takes them, a row each.

    Args:
        paper: whose values they are.
        beside: what `match` found.
        places: of the study, or of its rehearsal, in the same order.
    """
    import pandas as pd

    rows = []
    for value in beside:
        place = None if value.place is None else places[value.place]
        dataset, architecture, label = place.name if place else ("", "", "")
        stated = value.stated or Stated("", math.nan, None, 2)
        rows.append(
            {
                "row": value.row,
                "column": value.column,
                "dataset": dataset,
                "architecture": architecture,
                "label": label,
                "metric": measured(value.metric, place),
                "times": value.times,
                "stated": stated.text,
                "paper_mean": stated.mean,
                "paper_std": math.nan if stated.std is None else stated.std,
                "paper_n": value.seeds if value.stated else 0,
                "decimals": stated.decimals,
                "note": " ".join(value.notes),
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs = {"source": paper.source, "seeds": paper.seeds, "spread": paper.spread, "remark": paper.remark}
    return frame


def measured(metric: str, place: Place | None) -> str:
    """Name a metric as the runs of a place have it: what was measured on generated corruptions is called so."""
    generated = place is not None and place.dataset.corruptions == "generated"
    return f"generated/{metric}" if generated and metric.startswith(("corruption_error", "relative_change")) else metric
