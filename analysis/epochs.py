"""Plots over the epochs of training: scores on test data, the training loss, distances between networks."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.runs import load_series, ranked
from analysis.style import add_legend, cells, draw_band, looks, panels, plain, styled

SERIES = {
    "test/accuracy": "Test accuracy (%)",
    "test/nll": "Test NLL (nats)",
    "train/loss": "Training loss (nats)",
    "distance/l2": "L2 distance",
    "distance/squared_cosine": "Squared cosine",
}
"""What is tracked after each epoch; all but the loss where the study asks for it."""


def over_epochs(frame: pd.DataFrame) -> Figure:
    """Plot what was tracked after each epoch, a panel for each quantity, dataset and architecture.

    Lines are means over seeds, bands sample standard deviations. The training loss is what each method minimises, on
    augmented data; distances are averaged over pairs of a method's networks, once it has several.

    Args:
        frame: Rows of `load_runs`; their series are read.

    Raises:
        LookupError: If no run was trained for an epoch.
    """
    frame = ranked(frame)
    tracked = {name: load_series(frame, name) for name in SERIES}
    tracked = {name: series for name, series in tracked.items() if len(series)}
    if not tracked:
        raise LookupError("no run has anything tracked over epochs")
    columns = ["run_id", "label", "dataset", "architecture"]
    parts = [
        (name, title, rows)
        for name, series in tracked.items()
        for title, rows in cells(series.merge(frame[columns], on="run_id"))
    ]
    labels = {label for _, _, rows in parts for label in rows["label"]}
    look = {label: style for label, style in looks(set(frame["label"])).items() if label in labels}
    with styled():
        figure, axes = panels(len(parts), 1.75, list(look))
        for ax, (name, title, rows) in zip(axes, parts, strict=True):
            for label, runs in rows.groupby("label"):
                table = runs.pivot_table(index="run_id", columns="step", values="value")  # (seeds, epochs)
                draw_band(ax, table.columns.to_numpy(float), table.to_numpy(float), look[str(label)])
            ax.set(title=plain(title), xlabel="Epoch", ylabel=SERIES[name])
        add_legend(figure, [Line2D([], [], **style.options()) for style in look.values()], list(look))
    return figure
