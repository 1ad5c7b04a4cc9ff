"""What all functions that draw a figure from runs have in common: style, banner, and options that are checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import Concatenate, ParamSpec

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import add_banner, plot_style
from analysis.frame.unfinished_runs import unfinished_summary

P = ParamSpec("P")


def plot_function(
    draw: Callable[Concatenate[pd.DataFrame, P], Figure],
) -> Callable[Concatenate[pd.DataFrame, P], Figure]:
    """Make a plot of a function of a frame of runs.

    It draws in the common style, and what `frame.attrs["banner"]` says ("Rehearsal: …") stands above the panels, so
    that no figure of such runs can be taken for the real one; so does how many runs are not shown because they are not
    finished (`attrs["unfinished"]`).

    Args:
        draw: Takes the frame and options, and gives the figure.

    Returns:
        The function; it raises ValueError, with the options that there are, for one that is unknown or lacking.
    """
    signature = inspect.signature(draw)
    known = list(signature.parameters)[1:]

    @wraps(draw)
    def drawn(frame: pd.DataFrame, /, *args: P.args, **options: P.kwargs) -> Figure:
        try:
            signature.bind(frame, *args, **options)
        except TypeError as error:
            raise ValueError(f"{draw.__name__}: {error}; its options are: {', '.join(known) or 'none'}") from error
        with plot_style():
            figure = draw(frame, *args, **options)
            add_banner(figure, " ".join(filter(None, [frame.attrs.get("banner"), unfinished_summary(frame)])))
        return figure

    return drawn


def check_choice(option: str, value: object, known: Collection[str]) -> None:
    """Refuse a value that an option does not know.

    Args:
        option: Its name.
        value: What was given.
        known: What may be given.

    Raises:
        ValueError: With the known values.
    """
    if value not in known:
        raise ValueError(f"unknown {option} {value!r}; known are: {', '.join(known)}")


def check_name_list(option: str, values: object) -> list[str]:
    """Give the names that an option lists.

    Raises:
        ValueError: If it is no list, or an empty one.
    """
    if isinstance(values, str) or not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{option} is a list of names, as in [accuracy, nll]; got {values!r}")
    return [str(value) for value in values]


def check_metrics_present(table: pd.DataFrame, metrics: Collection[str]) -> None:
    """Refuse metrics that no run has.

    Args:
        table: Of `summarize`.
        metrics: What is to be drawn.

    Raises:
        LookupError: With the metrics that there are.
    """
    there = [str(name).removesuffix("_mean") for name in table if str(name).endswith("_mean")]
    there = [name for name in there if table[f"{name}_mean"].notna().any()]
    for metric in metrics:
        if metric not in there:
            raise LookupError(f"no run has {metric!r}; there is: {', '.join(there)}")
