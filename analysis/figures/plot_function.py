"""Provides the decorator of all plotting functions (style, banner, option errors), and checks of options."""

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
    """Decorate a function that plots a frame of runs.

    The decorated function draws in the common style. It writes a line above the panels with `frame.attrs["banner"]`
    ("Rehearsal: …"), so that a rehearsal cannot be mistaken for a real result, and with the number of unfinished runs
    (`attrs["unfinished"]`).

    Args:
        draw: Takes the frame and options, and returns the figure.

    Returns:
        The decorated function. It raises a ValueError that lists the known options if an option is unknown or missing.
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
    """Check that an option has a known value.

    Args:
        option: The option's name.
        value: The given value.
        known: The known values.

    Raises:
        ValueError: If the value is unknown. The message lists the known values.
    """
    if value not in known:
        raise ValueError(f"unknown {option} {value!r}; known are: {', '.join(known)}")


def check_name_list(option: str, values: object) -> list[str]:
    """Check that an option is a list of names, and return the names.

    Raises:
        ValueError: If the option is not a list, or is empty.
    """
    if isinstance(values, str) or not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{option} is a list of names, as in [accuracy, nll]; got {values!r}")
    return [str(value) for value in values]


def check_metrics_present(table: pd.DataFrame, metrics: Collection[str]) -> None:
    """Check that every metric is in a table.

    Args:
        table: What `summarize` returns.
        metrics: The metrics to draw.

    Raises:
        LookupError: If no run has a metric. The message lists the metrics that runs have.
    """
    there = [str(name).removesuffix("_mean") for name in table if str(name).endswith("_mean")]
    there = [name for name in there if table[f"{name}_mean"].notna().any()]
    for metric in metrics:
        if metric not in there:
            raise LookupError(f"no run has {metric!r}; there is: {', '.join(there)}")
