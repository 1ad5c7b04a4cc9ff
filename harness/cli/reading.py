"""Reads tracked runs for the commands that show them, and draws the figures that a study requests."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import Refusal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from harness.planning.planned_runs import PlannedRuns, StudySummary


@contextmanager
def refuse_errors(hint: str = "") -> Iterator[None]:
    """Turn errors of the analysis into messages for the user.

    Args:
        hint: what the user can do about them.
    """
    from harness.parsing.yaml_errors import StudyError

    try:
        yield
    except (LookupError, OSError, ValueError, StudyError) as error:
        from harness.tracking.mlflow_store import missing_driver

        reason = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
        reason += missing_driver(error.__cause__)
        raise Refusal(f"{reason}; {hint}" if hint else reason) from error


def load_frame(plan: "PlannedRuns", study: str, runs: Path, store: str | None) -> "pd.DataFrame":
    """Load a study's tracked cells, with the labels that the study gives them today.

    Args:
        plan: the plan of the study.
        study: the study as arguments of a command, for messages.
        runs: the folder of run folders.
        store: the tracking store.
    """
    from analysis import load_runs
    from harness.tracking.mlflow_store import store_uri

    if plan.study.kind == "quadratic":
        raise Refusal(f"study {plan.study.name} simulates the noisy quadratic problem: `econ plot {study}` draws it")
    labels = {key: planned.labels for key, planned in plan.runs.items() if planned.role == "cell"}
    with refuse_errors(f"train the study with `econ run {study}`, or send its runs with `econ sync {study}`"):
        frame = load_runs(plan.study.name, store=store_uri(store, runs), keys=labels)
    frame["label"] = frame["key"].map(labels)
    whole = frame.explode("label", ignore_index=True)  # a method may stand in the study under several names
    missing = [
        cell | name_missing(plan, cell["key"]) for cell in frame.attrs["unfinished"] if cell["state"] == "missing"
    ]
    unfinished = [cell for cell in frame.attrs["unfinished"] if cell["state"] != "missing"] + missing
    said = {"tuning": plan.study.caption, "description": plan.study.description, "banner": plan.study.banner}
    whole.attrs = frame.attrs | said | {"unfinished": unfinished}
    return whole


def name_missing(plan: "PlannedRuns", key: str) -> dict[str, str]:
    """Return the label, architecture, dataset and seed of a cell that no tracked run belongs to."""
    planned = plan.runs[key]
    tags = planned.run.tags()
    return {"label": planned.label, **{name: tags[name] for name in ("architecture", "dataset", "seed")}}


def draw_figures(study: "StudySummary", frame: "pd.DataFrame") -> Iterator[tuple[str, "Figure | str"]]:
    """Yield the figures that a study asks for, by name; in the place of one that cannot be drawn, the reason."""
    import pandas as pd

    from analysis import FIGURES

    group_names = pd.Series(
        list(zip(frame["dataset"], frame["architecture"], frame["label"], strict=True)), frame.index
    )
    for request in study.figures:
        rows = frame.assign(order=group_names.map({cell: order for order, cell in enumerate(request.cells)}))
        rows = rows.dropna(subset="order").sort_values(["order", "seed"], ignore_index=True).drop(columns="order")
        unfinished = [cell for cell in frame.attrs["unfinished"] if group_name_of(cell) in request.cells]
        rows.attrs = frame.attrs | {"unfinished": unfinished}
        try:
            yield request.name, FIGURES[request.plot](rows, **request.options)
        except (KeyError, IndexError):
            raise  # a mistake of the plot, though Python calls it a LookupError
        except (LookupError, ValueError, OSError) as error:
            reason = error.args[0] if isinstance(error, LookupError) and error.args else error
            yield request.name, f"no figure {request.name or request.plot}: {reason}"


def group_name_of(cell: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the dataset, architecture and label of an unfinished cell."""
    return cell["dataset"], cell["architecture"], cell["label"]
