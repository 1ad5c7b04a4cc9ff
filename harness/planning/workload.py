"""The workload of a study: a graph of what is trained, on how many examples; and how long a schedule of it takes.

A workload does not depend on a device, so that it is stored, in workloads.json. Only studies that were edited are
counted again. After a change to what methods cost, remove the file: then all are counted.
"""

import heapq
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from harness.planning.plan import Plan, shape
from harness.planning.study_cost import forward_flops_of_run, plain_training_epochs, study_digest, trained_run
from harness.planning.trunks import FOLDER, TrunkRun
from harness.studies.study import Study, load
from harness.studies.study_files import study_names

WORKLOADS_FILE = Path(__file__).with_name("workloads.json")
DIGITS = 12
"""Hexadecimal digits of a key that are stored."""


class Network(NamedTuple):
    """A network and its minibatches: what determines how many examples per second a device trains.

    Attributes:
        architecture: the network's name.
        image: channels, height and width of its images; None for text.
        classes: the number of its classes.
        batch_size: examples in a minibatch.
        forward_flops: floating-point operations of one example's forward pass.
    """

    architecture: str
    image: tuple[int, int, int] | None
    classes: int
    batch_size: int
    forward_flops: float


class TrainingTask(NamedTuple):
    """The training of one run or trunk.

    Attributes:
        network: the network that is trained.
        label: method, architecture and dataset, for people.
        examples: the number of examples with which plain training would cost as much.
        after: keys of the tasks that must be finished first.
    """

    network: Network
    label: str
    examples: float
    after: tuple[str, ...]


TaskGraph = dict[str, TrainingTask]
"""Tasks by key; a task stands after those that it needs."""


@dataclass(frozen=True)
class Workload:
    """Everything that a study trains.

    Attributes:
        digest: SHA-256 of the study's file and of the recipes that it names, when the workload was counted.
        tasks: a task for each run and each trunk; empty if the study trains nothing.
    """

    digest: str
    tasks: TaskGraph

    @property
    def runs(self) -> int:
        """The number of tasks that are runs, not trunks."""
        return sum(is_run_key(key) for key in self.tasks)


def is_run_key(key: str) -> bool:
    """Return whether a key is that of a run, not of a trunk."""
    return not key.startswith(FOLDER)


def count_workload(name: str) -> Workload:
    """Return the workload of a study.

    Args:
        name: the name of a study that comes with the project, or the path of a study file.
    """
    study = load(name)
    if not isinstance(study, Study):
        return Workload(study_digest(name), {})
    plan = Plan(study, share=True)
    return Workload(study_digest(name), {short_key(key): make_task(plan, key) for key in plan.runs})


def make_task(plan: Plan, key: str) -> TrainingTask:
    """Return the task of a plan's run or trunk: the training that it does itself."""
    planned = plan.runs[key]
    run = trained_run(planned)
    data = shape(run)
    image = (data.in_channels, data.image_size, data.image_size) if data.in_channels and data.image_size else None
    network = Network(run.architecture, image, data.classes, run.recipe.batch_size, forward_flops_of_run(run))
    name = "trunk" if isinstance(planned.run, TrunkRun) else planned.label
    label = f"{name} · {run.architecture} · {run.dataset.label}"
    examples = round(plain_training_epochs(plan, key) * data.train, 1)
    return TrainingTask(network, label, examples, tuple(map(short_key, planned.after)))


def short_key(key: str) -> str:
    """Return a shortened key of a run or a trunk."""
    folder, slash, digits = key.rpartition("/")
    return f"{folder}{slash}{digits[:DIGITS]}"


def merge_workloads(workloads: Iterable[Workload]) -> TaskGraph:
    """Return the tasks of several studies that use one folder of runs: a run that they share is trained once.

    The studies are trained in order. A trunk that only runs of earlier studies need is left out.
    """
    found: TaskGraph = {}
    for workload in workloads:
        needed = {key for key in workload.tasks if is_run_key(key)}
        new: TaskGraph = {}
        for key, task in reversed(workload.tasks.items()):  # those that need others come first
            if key in needed and key not in found:
                new[key] = task
                needed.update(task.after)
        found |= dict(reversed(new.items()))
    return found


def longest_chains(hours: Mapping[str, float], tasks: Mapping[str, TrainingTask]) -> dict[str, float]:
    """Return for each task the hours from its start to the end of the longest chain of tasks that wait for it.

    Args:
        hours: the hours of each task, by key.
        tasks: the tasks, by key.

    Raises:
        graphlib.CycleError: if tasks wait for each other.
    """
    chains = dict(hours)
    order = list(TopologicalSorter({key: task.after for key, task in tasks.items()}).static_order())
    for key in reversed(order):
        for before in tasks[key].after:
            chains[before] = max(chains[before], hours[before] + chains[key])
    return chains


def end_of_longest_chain(hours: Mapping[str, float], tasks: Mapping[str, TrainingTask]) -> str:
    """Return the last task of the longest chain; of several such chains, that of the plan's first task."""
    chains = longest_chains(hours, tasks)
    followers: dict[str, list[str]] = {key: [] for key in tasks}
    for key, task in tasks.items():
        for before in task.after:
            followers[before].append(key)

    def longest(keys: Collection[str]) -> str:
        most = max(chains[key] for key in keys)
        return next(key for key in keys if math.isclose(chains[key], most))

    last = longest(tasks)
    while followers[last]:
        last = longest(followers[last])
    return last


def makespan(hours: Mapping[str, float], tasks: Mapping[str, TrainingTask], devices: int) -> float:
    """Return the makespan of a list schedule: the hours until the last task ends.

    Each device executes one task at a time. No device idles while a task can start. Among the tasks that can start,
    the one with the longest chain of waiting tasks starts first. In whatever order tasks start, such a schedule takes
    at most 2 − 1/n times as long as the best one on n devices.

    Args:
        hours: the hours of each task, by key.
        tasks: the tasks, by key.
        devices: the number of devices.

    Raises:
        ValueError: if there is no device.

    References:
        Graham, Bounds on multiprocessing timing anomalies, SIAM Journal on Applied Mathematics 17, 1969.
    """
    if devices < 1:
        raise ValueError(f"a schedule needs at least one device, not {devices}")
    chains = longest_chains(hours, tasks)
    waiting = TopologicalSorter({key: task.after for key, task in tasks.items()})
    waiting.prepare()
    ready: list[tuple[float, str]] = []  # heaps: the longest chain first,
    running: list[tuple[float, str]] = []  # the earliest end first
    now = 0.0
    while waiting.is_active():
        for key in waiting.get_ready():
            heapq.heappush(ready, (-chains[key], key))
        while ready and len(running) < devices:
            key = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + hours[key], key))
        now = running[0][0]
        while running and running[0][0] == now:  # every task that ends now frees its device before one starts
            waiting.done(heapq.heappop(running)[1])
    return now


def read_workloads(path: Path = WORKLOADS_FILE) -> dict[str, Workload]:
    """Read the stored workloads of the project's studies; leave out studies that were edited since."""
    raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {
        name: values for name, values in raw.items() if name in study_names() and values["digest"] == study_digest(name)
    }
    return {name: from_json(values) for name, values in known.items()}


def load_workloads() -> dict[str, Workload]:
    """Return the workload of each of the project's studies; count and store those of studies that were edited."""
    from rich.progress import track

    known = read_workloads()
    if known.keys() == set(study_names()):
        return known
    workloads = {name: known.get(name) or count_workload(name) for name in track(study_names(), description="studies")}
    write_workloads(workloads)
    return workloads


def write_workloads(workloads: Mapping[str, Workload], path: Path = WORKLOADS_FILE) -> None:
    """Store the workloads of the project's studies, one per line."""
    lines = [f"{json.dumps(name)}: {json.dumps(to_json(each), ensure_ascii=False)}" for name, each in workloads.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def to_json(workload: Workload) -> dict[str, Any]:
    """Return a workload as JSON values, in which tasks refer to networks, labels and other tasks by number."""
    networks = list(dict.fromkeys(task.network for task in workload.tasks.values()))
    labels = list(dict.fromkeys(task.label for task in workload.tasks.values()))
    number = {key: i for i, key in enumerate(workload.tasks)}
    tasks = [
        [key, networks.index(task.network), labels.index(task.label), task.examples, *(number[k] for k in task.after)]
        for key, task in workload.tasks.items()
    ]
    return {"digest": workload.digest, "networks": networks, "labels": labels, "tasks": tasks}


def from_json(raw: Mapping[str, Any]) -> Workload:
    """Return the workload of which `to_json` made these values."""
    networks = [Network(name, tuple(image) if image else None, *rest) for name, image, *rest in raw["networks"]]
    keys = [key for key, *_ in raw["tasks"]]
    tasks = {
        key: TrainingTask(networks[network], raw["labels"][label], examples, tuple(keys[i] for i in after))
        for key, network, label, examples, *after in raw["tasks"]
    }
    return Workload(raw["digest"], tasks)
