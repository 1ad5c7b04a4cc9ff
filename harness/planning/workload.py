"""The work of a study: what is trained, on how many examples, what must wait for what; and a schedule of it.

It says nothing of any device, so that it is kept, in `work.json`, and counted anew only for a study that was edited;
for all once that file is removed, as after a change of what methods cost.
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
from harness.planning.study_cost import digest, forward_flops_of_run, plain_epochs, trained
from harness.planning.trunks import FOLDER, Trunk
from harness.studies.study import Study, load
from harness.studies.study_files import names

WORK = Path(__file__).with_name("work.json")
DIGITS = 12
"""Hexadecimal digits of a key that are kept."""


class Network(NamedTuple):
    """What decides how many examples of plain training a device takes a second.

    Attributes:
        architecture: its name.
        image: channels, height and width of what it reads; None for text.
        classes: how many it tells apart.
        batch_size: examples of a minibatch.
        operations: floating-point operations of one example's forward pass.
    """

    architecture: str
    image: tuple[int, int, int] | None
    classes: int
    batch_size: int
    operations: float


class Task(NamedTuple):
    """One run or trunk.

    Attributes:
        network: that it trains.
        label: its method, architecture and dataset, for people.
        examples: with which plain training would cost as much.
        after: keys of the tasks that must be finished first.
    """

    network: Network
    label: str
    examples: float
    after: tuple[str, ...]


Tasks = dict[str, Task]
"""Tasks by key, needed ones before those that need them."""


@dataclass(frozen=True)
class Work:
    """What a study trains.

    Attributes:
        digest: SHA-256 of the study's file and of the recipes named there, of which this is the work.
        tasks: each run and each trunk once; none if nothing is trained.
    """

    digest: str
    tasks: Tasks

    @property
    def runs(self) -> int:
        """How many tasks have results of their own: all but trunks."""
        return sum(is_run(key) for key in self.tasks)


def is_run(key: str) -> bool:
    """Say whether a task is a run, not a trunk."""
    return not key.startswith(FOLDER)


def count_work(name: str) -> Work:
    """Plan a study that comes with the project, or at a path, and note what it trains."""
    study = load(name)
    if not isinstance(study, Study):
        return Work(digest(name), {})
    plan = Plan(study, share=True)
    return Work(digest(name), {short_key(key): task_of(plan, key) for key in plan.runs})


def task_of(plan: Plan, key: str) -> Task:
    """Note what a run or a trunk of a plan trains itself."""
    planned = plan.runs[key]
    run = trained(planned)
    data = shape(run)
    image = (data.in_channels, data.image_size, data.image_size) if data.in_channels and data.image_size else None
    network = Network(run.architecture, image, data.classes, run.recipe.batch_size, forward_flops_of_run(run))
    name = "trunk" if isinstance(planned.run, Trunk) else planned.label
    label = f"{name} · {run.architecture} · {run.dataset.label}"
    examples = round(plain_epochs(plan, key) * data.train, 1)
    return Task(network, label, examples, tuple(map(short_key, planned.after)))


def short_key(key: str) -> str:
    """Keep the beginning of a run's or a trunk's key."""
    folder, slash, digits = key.rpartition("/")
    return f"{folder}{slash}{digits[:DIGITS]}"


def together(works: Iterable[Work]) -> Tasks:
    """Put the work of studies into one folder of runs: a run that several of them have is trained once.

    A trunk counts for the first study that has it, unless no run goes on from it that an earlier study has not trained.
    """
    found: Tasks = {}
    for work in works:
        wanted = {key for key in work.tasks if is_run(key)}
        new: Tasks = {}
        for key, task in reversed(work.tasks.items()):  # those that need others come first
            if key in wanted and key not in found:
                new[key] = task
                wanted.update(task.after)
        found |= dict(reversed(new.items()))
    return found


def longest_chains(hours: Mapping[str, float], tasks: Mapping[str, Task]) -> dict[str, float]:
    """Give for each task the hours from its start to the end of all that waits for it, were there devices enough.

    Raises:
        graphlib.CycleError: if tasks wait for each other.
    """
    chains = dict(hours)
    order = list(TopologicalSorter({key: task.after for key, task in tasks.items()}).static_order())
    for key in reversed(order):
        for before in tasks[key].after:
            chains[before] = max(chains[before], hours[before] + chains[key])
    return chains


def end_of_longest_chain(hours: Mapping[str, float], tasks: Mapping[str, Task]) -> str:
    """Give the last task of the chain that takes longest; of several, the plan's first."""
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


def schedule(hours: Mapping[str, float], tasks: Mapping[str, Task], devices: int) -> float:
    """Say after how many hours the last task ends if devices take one at a time, and none idles while one could start.

    Of those that can start, the one goes first that the longest chain waits for. Whatever the order, such a schedule
    takes at most 2 − 1/n times as long as the best one on n devices.

    Args:
        hours: of each task.
        tasks: which of them must be finished before each.
        devices: how many there are.

    Raises:
        ValueError: without a device.

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
        while running and running[0][0] == now:  # all that end now make room before anything starts
            waiting.done(heapq.heappop(running)[1])
    return now


def read_work(path: Path = WORK) -> dict[str, Work]:
    """Read the work of the studies that come with the project, of those that have not been edited since."""
    raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {name: values for name, values in raw.items() if name in names() and values["digest"] == digest(name)}
    return {name: from_json(values) for name, values in known.items()}


def all_work() -> dict[str, Work]:
    """Give the work of every study that comes with the project; those that were edited are counted anew, and kept."""
    from rich.progress import track

    known = read_work()
    if known.keys() == set(names()):
        return known
    works = {name: known.get(name) or count_work(name) for name in track(names(), description="studies")}
    write_work(works)
    return works


def write_work(works: Mapping[str, Work], path: Path = WORK) -> None:
    """Write the work of the studies that come with the project, one a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(to_json(work), ensure_ascii=False)}" for name, work in works.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def to_json(work: Work) -> dict[str, Any]:
    """Give a study's work as JSON values: networks, labels and needed tasks by their number."""
    networks = list(dict.fromkeys(task.network for task in work.tasks.values()))
    labels = list(dict.fromkeys(task.label for task in work.tasks.values()))
    number = {key: i for i, key in enumerate(work.tasks)}
    tasks = [
        [key, networks.index(task.network), labels.index(task.label), task.examples, *(number[k] for k in task.after)]
        for key, task in work.tasks.items()
    ]
    return {"digest": work.digest, "networks": networks, "labels": labels, "tasks": tasks}


def from_json(raw: Mapping[str, Any]) -> Work:
    """Make a study's work of what `to_json` gave."""
    networks = [Network(name, tuple(image) if image else None, *rest) for name, image, *rest in raw["networks"]]
    keys = [key for key, *_ in raw["tasks"]]
    tasks = {
        key: Task(networks[network], raw["labels"][label], examples, tuple(keys[i] for i in after))
        for key, network, label, examples, *after in raw["tasks"]
    }
    return Work(raw["digest"], tasks)
