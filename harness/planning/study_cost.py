"""What a study costs before it is run: runs, epochs, and an estimate of GPU-hours.

`python -m harness.planning.study_cost` counts the studies that were edited anew, for `econ list studies`; all of
them once the file `costs.json` is removed, as after a change of what methods cost.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from data import Shape
from data.tasks.text_task import SEGMENT
from harness.costs.expected_cost import expected_cost
from harness.planning.plan import Plan, Planned, shape
from harness.planning.trunks import Trunk
from harness.studies.grid import recipes
from harness.studies.run import Run
from harness.studies.study import Study, load
from harness.studies.study_files import find, names

LEAST = 0.1
"""GPU-hours that are written as a number."""
COSTS = Path(__file__).with_name("costs.json")
HOURS = 4.92
"""Hours of plain training of a WRN-28-10 on CIFAR-10, 200 epochs on one NVIDIA GeForce 2080 Ti (von Oswald et al. 2021,
Table 17). All else is this times the ratio of floating-point operations."""
MEASURED = ("wrn-28-10", Shape(3, 32, 10, 50_000), 200)
"""Architecture, data and epochs of that training."""


@dataclass(frozen=True)
class StudyCost:
    """What a study costs.

    Attributes:
        digest: SHA-256 of the study's file and of the recipes named there, of which these are the costs.
        runs: how many are trained; runs that others are made of count too.
        written: epochs of all cells if everything that they need were trained for each alone.
        shared: epochs that are trained, each trunk and each needed run once.
        hours_written: estimated GPU-hours of the former.
        hours_shared: of the latter.
    """

    digest: str
    runs: int
    written: int
    shared: int
    hours_written: float
    hours_shared: float

    def __str__(self) -> str:
        """Write it on one line."""
        if not self.runs:
            return "simulated in minutes on a CPU"
        written, shared = short(self.hours_written), short(self.hours_shared)
        hours = f"about {written} and {shared}" if self.hours_written >= LEAST else short(self.hours_written)
        return (
            f"{self.runs:,} run{'s' if self.runs > 1 else ''}; {self.written:,} epochs as written, "
            f"{self.shared:,} after sharing; "
            f"{hours} GPU-hours"
        )


def short(number: float) -> str:
    """Write a number with two digits or more; very small ones as that."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}" if number >= LEAST else f"under {LEAST}"


def count_cost(name: str) -> StudyCost:
    """Count what a study costs that comes with the project, or at a path."""
    study = load(name)
    if not isinstance(study, Study):
        return StudyCost(digest(name), 0, 0, 0, 0.0, 0.0)
    plan = Plan(study, share=True)
    cells = [key for key, planned in plan.runs.items() for label in planned.labels if planned.role == "cell"]
    written = sum(plan.epochs_as_written(key) for key in cells)
    shared = sum(planned.epochs - planned.first for planned in plan.runs.values())
    hours_shared = sum(hours(plan, key) for key in plan.runs)
    hours_written = sum(hours_as_written(plan, key) for key in cells)
    return StudyCost(digest(name), len(plan.alone), written, shared, round(hours_written, 3), round(hours_shared, 3))


def hours_as_written(plan: Plan, key: str) -> float:
    """Estimate the GPU-hours of a run and of all that it needs, trained for it alone."""
    planned = plan.runs[key]
    alone = hours(plan, key) + hours_of(trained(planned), planned.first) if planned.epochs else 0.0
    return alone + sum(hours_as_written(plan, need) for need in planned.needs)


def hours(plan: Plan, key: str) -> float:
    """Estimate the GPU-hours of what a run or a trunk trains itself, beyond the trunk that it goes on from."""
    epochs = plain_epochs(plan, key)
    return hours_of(trained(plan.runs[key]), 1) * epochs if epochs else 0.0


def plain_epochs(plan: Plan, key: str) -> float:
    """Say how many epochs of plain training cost as much as what a run or a trunk trains itself.

    The method's share of the cost is what it says `about` itself; a trunk is plain training.
    """
    planned = plan.runs[key]
    if not planned.epochs:
        return 0.0
    factor = 1.0
    if isinstance(planned.run, Run):
        assert isinstance(plan.study, Study)
        factor = expected_cost(planned.run.method, plan.study.methods, planned.run.recipe.epochs)
    return planned.epochs * factor - planned.first


def trained(planned: Planned) -> Run:
    """Give the run that is trained, of a trunk the one by which it is."""
    run = planned.run.run if isinstance(planned.run, Trunk) else planned.run
    assert isinstance(run, Run), "of the noisy quadratic problem nothing is trained"
    return run


def hours_of(run: Run, epochs: int) -> float:
    """Estimate the GPU-hours of so many epochs of plain training with the data and the network of a run."""
    architecture, known, length = MEASURED
    work = forward_flops_of_run(run) * shape(run).train * epochs
    return HOURS * work / (forward_flops(architecture, known, 0) * known.train * length)


def forward_flops_of_run(run: Run) -> float:
    """Count the floating-point operations of one example's forward pass in a run."""
    return forward_flops(run.architecture, shape(run), run.dataset.segment or SEGMENT)


@lru_cache(maxsize=64)
def forward_flops(architecture: str, data: Shape, segment: int) -> float:
    """Count the floating-point operations of one example's forward pass, of matrices and convolutions.

    Args:
        architecture: a network's name.
        data: what it reads.
        segment: of text, symbols of an example.
    """
    with torch.device("meta"):
        net = models.build(
            architecture, in_channels=data.in_channels, classes=data.classes, image_size=data.image_size
        ).eval()
    if data.in_channels is None or data.image_size is None:  # the counter does not know recurrent layers
        layers = [module for module in net.modules() if isinstance(module, nn.LSTM | nn.Linear)]
        return 2.0 * segment * sum(weight.numel() for layer in layers for weight in layer.parameters())
    x = torch.empty(1, data.in_channels, data.image_size, data.image_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return float(counter.get_total_flops())


def digest(name: str) -> str:
    """Give the SHA-256 of what decides a study's cost: its file and the recipes whose names stand in it."""
    text = find(name).read_text(encoding="utf-8")
    named = {recipe: values for recipe, values in recipes().items() if recipe in text}
    return hashlib.sha256(json.dumps([text, named], sort_keys=True).encode()).hexdigest()


def read_costs() -> dict[str, StudyCost]:
    """Read the costs of the studies that come with the project, of those that have not been edited since."""
    found = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}
    costs = {name: StudyCost(**values) for name, values in found.items()}
    return {name: cost for name, cost in costs.items() if name in names() and cost.digest == digest(name)}


def write_costs(costs: Iterable[tuple[str, StudyCost]]) -> None:
    """Write the costs of the studies that come with the project."""
    found = {name: asdict(cost) for name, cost in sorted(costs)}
    COSTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Count the costs of the studies that come with the project, of those that were edited since."""
    from rich.progress import track

    known = read_costs()
    write_costs([(name, known.get(name) or count_cost(name)) for name in track(names(), description="studies")])


if __name__ == "__main__":
    main()
