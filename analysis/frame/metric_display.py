"""Defines how each metric is displayed: its title, unit, number format and better direction.

Leaderboards, LaTeX tables and plots all take these from `METRICS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How one metric is displayed.

    Attributes:
        name: The column of `load_runs` or `relative_costs` that holds the metric.
        title: The title that readers see.
        unit: The unit, or "" for a plain number.
        format: The format specification of one number, such as ".2f".
        better: Which direction is better; None where neither is (diversity, number of members).
        spread: Whether tables show the standard deviation. Counts and relative costs hardly vary between seeds.
    """

    name: str
    title: str
    unit: str
    format: str
    better: Literal["higher", "lower"] | None
    spread: bool = True

    @property
    def header(self) -> str:
        """Title and unit, as in "Accuracy (%)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def arrow(self) -> str:
        """An arrow that points to better values; "" where neither direction is better."""
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]

    def format_value(self, value: float) -> str:
        """Format one number; return "" for NaN."""
        return "" if math.isnan(value) else format(value, self.format)

    def format_std(self, std: float) -> str:
        """Format a standard deviation; return "n/a" for NaN, the value for a single seed."""
        return "n/a" if math.isnan(std) else format(std, self.format)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy", "%", ".2f", "higher"),
        Metric("nll", "NLL", "nats", ".3f", "lower"),
        Metric("brier", "Brier", "", ".4f", "lower"),
        Metric("ece", "ECE", "", ".4f", "lower"),
        Metric("adaptive_ece", "Adaptive ECE", "", ".4f", "lower"),
        Metric("training/bpc", "Training bits per character", "bits", ".3f", "lower"),
        Metric("training/loss", "Training loss", "nats", ".4f", "lower"),
        Metric("training/accuracy", "Training accuracy", "%", ".2f", "higher"),
        Metric("single/accuracy", "Single accuracy", "%", ".2f", "higher"),
        Metric("single/nll", "Single NLL", "nats", ".3f", "lower"),
        Metric("ood_auroc", "OOD AUROC", "", ".3f", "higher"),
        Metric("ood_aupr", "OOD AUPR", "", ".3f", "higher"),
        Metric("ood_fpr95", "OOD FPR at 95 % TPR", "", ".3f", "lower"),
        Metric("corruption_error", "Corruption error", "%", ".2f", "lower"),
        Metric("relative_change", "Relative change under corruption", "", ".3f", "higher"),
        Metric("top5_accuracy", "Top-5 accuracy", "%", ".2f", "higher"),
        Metric("bpc", "Bits per character", "bits", ".3f", "lower"),
        Metric("single/bpc", "Single bits per character", "bits", ".3f", "lower"),
        Metric("temperature", "Temperature", "", ".3f", None),
        Metric("scaled/nll", "NLL, temperature scaled", "nats", ".3f", "lower"),
        Metric("scaled/ece", "ECE, temperature scaled", "", ".4f", "lower"),
        Metric("diversity/disagreement", "Disagreement", "", ".3f", None),
        Metric("diversity/total_variation", "Total variation", "", ".3f", None),
        Metric("diversity/kl", "KL between members", "nats", ".3f", None),
        Metric("diversity/cosine", "Cosine between members", "", ".3f", None),
        Metric("diversity/l2", "L2 between members", "", ".3f", None),
        Metric("members", "Members", "", ".0f", None, spread=False),
        Metric("train_cost", "Train cost", "×", ".2f", "lower", spread=False),
        Metric("train_time", "Train time", "×", ".2f", "lower"),
        Metric("predict_cost", "Predict cost", "×", ".2f", "lower", spread=False),
        Metric("cost/forward_examples", "Forward passes", "examples", ",.0f", "lower", spread=False),
        Metric("cost/backward_examples", "Backward passes", "examples", ",.0f", "lower", spread=False),
        Metric("cost/optimizer_steps", "Optimizer steps", "", ",.0f", "lower", spread=False),
        Metric("cost/train_seconds", "Training time", "s", ".1f", "lower"),
        Metric("cost/peak_memory_bytes", "Peak memory", "bytes", ",.0f", "lower", spread=False),
        Metric("cost/parameters_trained", "Parameters trained", "", ",.0f", "lower", spread=False),
        Metric("cost/parameters_kept", "Parameters kept", "", ",.0f", "lower", spread=False),
        Metric("cost/forwards_per_example", "Forward passes an example", "", ".2f", "lower", spread=False),
        Metric("cost/seconds_per_1000_predictions", "Time of 1,000 predictions", "s", ".4f", "lower"),
    )
}

LEADERBOARD_COLUMNS = (
    "accuracy",
    "bpc",
    "nll",
    "brier",
    "ece",
    "ood_auroc",
    "corruption_error",
    "generated/corruption_error",
    "diversity/disagreement",
    "train_cost",
    "predict_cost",
)
"""The metrics that a leaderboard shows, where the runs have them. Its CSV form has every metric."""


def describe(name: str) -> Metric:
    """Return how a metric is displayed.

    Some names follow the entry of a related metric in `METRICS`:

    - one dataset or corruption of a mean, such as `ood_auroc/svhn` or `corruption_error/fog`
    - `ece_20`: the ECE with 20 bins
    - `generated/…`: a metric under corruptions that were generated locally, instead of the official files
    - `spent/…`: as `cost/…`
    - `logit_average/…`: the metric of averaged logits instead of averaged probabilities

    An unknown metric is displayed with four significant digits and without a better direction.

    Args:
        name: The column's name.
    """
    if name in METRICS:
        return METRICS[name]
    group, _, bins = name.partition("_")
    if group == "ece" and bins.isdigit():
        return replace(METRICS["ece"], name=name, title=f"ECE, {bins} bins")
    group, _, rest = name.partition("/")
    if group == "generated" and describe(rest).title != rest:
        return replace(describe(rest), name=name, title=f"{describe(rest).title} (generated)")
    if group == "spent" and f"cost/{rest}" in METRICS:
        metric = METRICS[f"cost/{rest}"]
        return replace(metric, name=name, title=f"{metric.title}, spent")
    if group == "logit_average" and describe(rest).title != rest:
        return replace(describe(rest), name=name, title=f"{describe(rest).title}, logits averaged")
    if group in METRICS and rest:
        return replace(METRICS[group], name=name, title=f"{METRICS[group].title}, {rest}")
    return Metric(name, name, "", ".4g", None)
