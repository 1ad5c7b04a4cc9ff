"""The cost of a study before it is run: its runs, its epochs, and an estimate of GPU-hours.

`econ list studies` shows the costs that are stored in costs.json. `python -m harness.planning.study_cost` updates that
file for studies that were edited. After a change to what methods cost, remove the file first: then all are counted.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from data import DatasetShape
from data.tasks.text_task import SEGMENT
from harness.costs.expected_cost import expected_cost
from harness.planning.plan import Plan, shape
from harness.planning.planned_runs import Planned
from harness.planning.trunks import TrunkRun
from harness.studies.grid import load_recipes
from harness.studies.run import Run
from harness.studies.study import Study, load
from harness.studies.study_files import find_study, study_names

LEAST_HOURS = 0.1
"""The least GPU-hours that are written as a number; fewer are written as "under 0.1"."""
COSTS_FILE = Path(__file__).with_name("costs.json")
REFERENCE_HOURS = 4.92
"""Hours of the reference training on one NVIDIA GeForce 2080 Ti (von Oswald et al. 2021, Table 17).

The hours of any other training are these times the ratio of floating-point operations."""
REFERENCE_TRAINING = ("wrn-28-10", DatasetShape(3, 32, 10, 50_000), 200)
"""Architecture, data and epochs of the reference training: plain training of a WRN-28-10 on CIFAR-10."""


@dataclass(frozen=True)
class StudyCost:
    """The cost of a study.

    Attributes:
        digest: SHA-256 of the study's file and of the recipes that it names, when the cost was counted.
        runs: the number of runs, with the runs that others need.
        written: epochs of all cells if everything they need were trained for each cell alone.
        shared: epochs that are trained if each trunk and each needed run is trained once.
        hours_written: estimated GPU-hours of the epochs `written`.
        hours_shared: estimated GPU-hours of the epochs `shared`.
    """

    digest: str
    runs: int
    written: int
    shared: int
    hours_written: float
    hours_shared: float

    def __str__(self) -> str:
        """Describe the cost in one line."""
        if not self.runs:
            return "simulated in minutes on a CPU"
        written, shared = format_number(self.hours_written), format_number(self.hours_shared)
        hours = (
            f"about {written} and {shared}" if self.hours_written >= LEAST_HOURS else format_number(self.hours_written)
        )
        return (
            f"{self.runs:,} run{'s' if self.runs > 1 else ''}; {self.written:,} epochs as written, "
            f"{self.shared:,} after sharing; "
            f"{hours} GPU-hours"
        )


def format_number(number: float) -> str:
    """Return a number with at least two digits; a very small one as "under 0.1"."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}" if number >= LEAST_HOURS else f"under {LEAST_HOURS}"


def count_cost(name: str) -> StudyCost:
    """Count the cost of a study.

    Args:
        name: the name of a study that comes with the project, or the path of a study file.
    """
    study, digest = load(name), study_digest(name)
    if not isinstance(study, Study):
        return StudyCost(digest, 0, 0, 0, 0.0, 0.0)
    plan = Plan(study, share=True)
    cells = [key for key, planned in plan.runs.items() for label in planned.labels if planned.role == "cell"]
    written = sum(plan.epochs_as_written(key) for key in cells)
    shared = sum(planned.epochs - planned.trunk_epochs for planned in plan.runs.values())
    hours_shared = sum(own_hours(plan, key) for key in plan.runs)
    hours_written = sum(hours_as_written(plan, key) for key in cells)
    return StudyCost(digest, len(plan.without_trunks), written, shared, round(hours_written, 3), round(hours_shared, 3))


def hours_as_written(plan: Plan, key: str) -> float:
    """Estimate the GPU-hours of a run and of everything it needs, if nothing were shared with other runs."""
    trained = [each for each in plan.counted(key) if plan.runs[each].epochs]
    return math.fsum(
        own_hours(plan, each) + plain_training_hours(trained_run(plan.runs[each]), plan.runs[each].trunk_epochs)
        for each in trained
    )


def own_hours(plan: Plan, key: str) -> float:
    """Estimate the GPU-hours of the epochs that a run or a trunk trains itself, after those of its own trunk."""
    epochs = plain_training_epochs(plan, key)
    return plain_training_hours(trained_run(plan.runs[key]), 1) * epochs if epochs else 0.0


def plain_training_epochs(plan: Plan, key: str) -> float:
    """Return how many epochs of plain training cost as much as the epochs that a run or a trunk trains itself.

    What a method costs relative to plain training stands in its `about`. A trunk costs as much as plain training.
    """
    planned = plan.runs[key]
    if not planned.epochs:
        return 0.0
    factor = 1.0
    if isinstance(planned.run, Run):
        factor = expected_cost(planned.run.method, plan.methods, planned.run.recipe.epochs)
    return planned.epochs * factor - planned.trunk_epochs


def trained_run(planned: Planned) -> Run:
    """Return the spec of the run that is trained; for a trunk, that of the run which trains it."""
    run = planned.run.run if isinstance(planned.run, TrunkRun) else planned.run
    assert isinstance(run, Run), "of the noisy quadratic problem nothing is trained"
    return run


def plain_training_hours(run: Run, epochs: int) -> float:
    """Estimate the GPU-hours of plain training with the data and the network of a run, for some epochs."""
    architecture, data, length = REFERENCE_TRAINING
    flops = forward_flops_of_run(run) * shape(run).train * epochs
    return REFERENCE_HOURS * flops / (forward_flops(architecture, data, 0) * data.train * length)


def forward_flops_of_run(run: Run) -> float:
    """Return the floating-point operations of one example's forward pass in a run."""
    return forward_flops(run.architecture, shape(run), run.dataset.segment or SEGMENT)


@lru_cache(maxsize=64)
def forward_flops(architecture: str, data: DatasetShape, segment: int) -> float:
    """Count the floating-point operations of one example's forward pass in matrix products and convolutions.

    Args:
        architecture: a network's name.
        data: the shape of its data.
        segment: symbols per example, for text.
    """
    with torch.device("meta"):
        net = models.build(
            architecture, in_channels=data.in_channels, classes=data.classes, image_size=data.image_size
        ).eval()
    if data.in_channels is None or data.image_size is None:  # torch's counter lacks recurrent layers
        layers = [module for module in net.modules() if isinstance(module, nn.LSTM | nn.Linear)]
        return 2.0 * segment * sum(weight.numel() for layer in layers for weight in layer.parameters())
    x = torch.empty(1, data.in_channels, data.image_size, data.image_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return float(counter.get_total_flops())


def study_digest(name: str) -> str:
    """Return the SHA-256 of what determines a study's cost: its file and the recipes that it names."""
    text = find_study(name).read_text(encoding="utf-8")
    named = {recipe: values for recipe, values in load_recipes().items() if recipe in text}
    return hashlib.sha256(json.dumps([text, named], sort_keys=True).encode()).hexdigest()


def read_costs() -> dict[str, StudyCost]:
    """Read the stored costs of the project's studies; leave out studies that were edited since."""
    found = json.loads(COSTS_FILE.read_text(encoding="utf-8")) if COSTS_FILE.exists() else {}
    costs = {name: StudyCost(**values) for name, values in found.items()}
    return {name: cost for name, cost in costs.items() if name in study_names() and cost.digest == study_digest(name)}


def write_costs(costs: Iterable[tuple[str, StudyCost]]) -> None:
    """Store the costs of the project's studies."""
    found = {name: asdict(cost) for name, cost in sorted(costs)}
    COSTS_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Update the stored costs of the project's studies: count those that were edited."""
    from rich.progress import track

    known = read_costs()
    write_costs([(name, known.get(name) or count_cost(name)) for name in track(study_names(), description="studies")])


if __name__ == "__main__":
    main()
