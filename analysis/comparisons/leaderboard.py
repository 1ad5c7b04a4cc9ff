"""Ranks methods over seeds, with their costs and comparisons."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pandas as pd

from analysis.comparisons.average_ranks import average_ranks
from analysis.comparisons.paired_differences import paired_differences
from analysis.comparisons.pareto_fronts import find_fronts
from analysis.frame.metric_display import describe
from analysis.frame.relative_costs import relative_costs
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, default_metric, lower_is_better_means, summarize
from analysis.frame.unfinished_runs import unfinished_notes


def leaderboard(frame: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Rank the methods within each dataset and architecture, without runs that were chosen on test data.

    Args:
        frame: Rows of `load_runs`. `attrs["tuning"]` may say which methods were tuned, and how; `attrs["banner"]` may
            say that the study was only rehearsed.
        by: The metric whose mean ranks the methods; None for the accuracy, or bits per character for text. Ties are
            broken by the lower NLL (when ranking by NLL, by the higher accuracy). Entries equal in both share a rank.
            If neither direction of the metric is better (diversity), the highest value ranks first. An entry without
            the metric comes last and has no rank.

    Returns:
        One row per (dataset, architecture, label), the best first: columns dataset, architecture, rank, label,
        method, n, evaluated_on, and every metric as `<name>_mean` and `<name>_std` (see `summarize`). Then, for the
        metric ranked by: difference, difference_low, difference_high, difference_interval, difference_n (see
        `paired_differences`; NaN for plain training itself), train_front and predict_front (see `pareto_fronts`), and
        average_rank (see `average_ranks`; NaN where there is none).
        `attrs["notes"]` lists notes for the reader, `attrs["by"]` is the metric, `attrs["left_out"]` names the runs
        that `ranked` left out, `attrs["tuning"]` and `attrs["banner"]` are those of the frame.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, or the frame mixes rows that must not be in one table.
    """
    runs = relative_costs(ranked(frame))
    board = summarize(runs)
    by = by or default_metric(board)
    if f"{by}_mean" not in board:
        known = ", ".join(str(name)[:-5] for name in board if str(name).endswith("_mean"))
        raise ValueError(f"no run has {by!r}; a leaderboard can rank by: {known}")
    board, compared = _add_comparisons(board, runs, by)
    second = "accuracy" if by == "nll" else "nll"
    order = board[[*DATASET_AND_ARCHITECTURE, "label"]].assign(first=lower_is_better_means(board, by))
    order["second"] = lower_is_better_means(board, second) if f"{second}_mean" in board else 0.0
    order = order.sort_values([*DATASET_AND_ARCHITECTURE, "first", "second", "label"], na_position="last")
    board.insert(2, "rank", pd.Series(_assign_ranks(order), dtype="Int64"))
    tuning, banner = frame.attrs.get("tuning", ""), frame.attrs.get("banner", "")
    notes = [
        *filter(None, [banner]),
        *_seed_notes(board),
        *filter(None, [tuning]),
        *board.attrs.get("notes", []),
        *_machine_notes(runs),
        *unfinished_notes(frame),
    ]
    partial, left_out = board.attrs["partial"], board.attrs.get("left_out", "")
    board = board.loc[order.index].reset_index(drop=True)
    board.attrs = {"by": by, "partial": partial, "left_out": left_out, "tuning": tuning, "banner": banner}
    board.attrs["notes"] = [*notes, *compared]
    return board


def _add_comparisons(board: pd.DataFrame, runs: pd.DataFrame, by: str) -> tuple[pd.DataFrame, list[str]]:
    """Add differences to plain training, Pareto fronts and average ranks to a board, and return notes on them."""
    paired = paired_differences(runs, by)
    ends = {name: f"difference_{name}" for name in ("low", "high", "interval", "n")}
    shown = paired.rename(columns=ends)[[*DATASET_AND_ARCHITECTURE, "label", "difference", *ends.values()]]
    out = board.merge(shown, on=[*DATASET_AND_ARCHITECTURE, "label"], how="left").astype({"difference_n": "Int64"})
    fronts, notes = find_fronts(out, by)
    ranks: dict[Any, float] = {}
    if describe(by).better is not None:
        with suppress(LookupError):  # too few cells for ranks
            ranks = average_ranks(board, by).set_index("label")["average_rank"].to_dict()
    out = pd.concat([out, fronts, out["label"].map(ranks).astype(float).rename("average_rank")], axis=1).copy()
    out.attrs = board.attrs
    meaning = (
        "Δ: entry minus plain training, mean over the seeds both have [95 % interval: studentised bootstrap; of two to "
        "four seeds or near ties Student's t, of one or of equal differences n/a; not corrected for the number of "
        "entries]."
    )
    new = [note for note in paired.attrs["notes"] if note not in board.attrs.get("notes", [])]
    return out, [*([meaning] if paired["difference"].notna().any() else []), *notes, *new]


def _assign_ranks(order: pd.DataFrame) -> dict[int, int | None]:
    """Return the rank of each row index, given the rows in ranked order; None for entries without the metric."""
    ranks: dict[int, int | None] = {}
    for _, rows in order.groupby(DATASET_AND_ARCHITECTURE, sort=False):
        previous: tuple[float | None, float | None] | None = None
        rank = 0
        values = zip(rows.index, rows["first"], rows["second"], strict=True)
        for position, (index, first, second) in enumerate(values, start=1):
            current = (None if pd.isna(first) else first, None if pd.isna(second) else second)
            rank = rank if current == previous else position
            ranks[int(index)] = None if pd.isna(first) else rank
            previous = current
    return ranks


def _machine_notes(runs: pd.DataFrame) -> list[str]:
    """Return notes on runs of different devices, with and without TF32, or on different official corrupted files."""
    notes = []
    if "device" in runs and len(counts := runs["device"].replace("", "unknown").value_counts(sort=False)) > 1:
        listed = " and ".join(f"{count} on {device}" for device, count in counts.sort_index().items())
        notes.append(f"Different devices: {listed}. Seconds do not compare, and results differ by rounding.")
    if "tf32" in runs and len(counts := runs["tf32"].replace("", "unknown").value_counts(sort=False)) > 1:
        listed = " and ".join(f"{count} with {kind}" for kind, count in counts.sort_index().items())
        notes.append(f"Different rounding: float32 arithmetic in TF32: {listed}.")
    for dataset, rows in runs.groupby("dataset") if "official_corruptions" in runs else ():
        if len(counts := rows["official_corruptions"].replace("", "no digest").value_counts(sort=False)) > 1:
            listed = " and ".join(f"{count} of {str(digest)[:12]}" for digest, count in counts.sort_index().items())
            notes.append(f"Different official corrupted files of {dataset}: {listed}. Scores on them do not compare.")
    return notes


def _seed_notes(board: pd.DataFrame) -> list[str]:
    """Return the note on the number of seeds and the evaluation data."""
    split = board["evaluated_on"].iloc[0]
    counts = sorted(board["n"].unique())
    if len(counts) == 1:
        seeds = f"n = {counts[0]} seed{'s' if counts[0] > 1 else ''}"
    else:
        seeds = f"n = {counts[0]} to {counts[-1]} seeds (column n)"
    return [f"Mean ± sample standard deviation (n − 1) over {seeds}, on {split} data."]
