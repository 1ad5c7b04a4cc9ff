"""Predicts how long studies take on one or several GPUs, from rates of plain training, and writes docs/scaling.md.

Run `python -m harness.planning.scaling_forecast --output docs/scaling.md`. With `--rates FILE`, the rates are read
from a benchmark's file.
"""

import math
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from harness.planning.device_rates import (
    FROM_FLOPS,
    OPTIMISTIC_RATIO,
    DeviceRates,
    RatesError,
    TrainingRate,
    paper_rates,
    read_rates,
    target_rates,
)
from harness.planning.study_cost import REFERENCE_TRAINING, format_number
from harness.planning.workload import (
    Network,
    TaskGraph,
    Workload,
    end_of_longest_chain,
    is_run_key,
    load_workloads,
    longest_chains,
    makespan,
    merge_workloads,
)

PAGE = Path("docs/scaling.md")
FIRST_STUDY = "leaderboard"
DEVICES = (8, 64)
"""Numbers of GPUs for which hours are predicted, besides one."""


@dataclass(frozen=True)
class Prediction:
    """How long a set of tasks takes.

    Attributes:
        hours: hours on one device.
        hours_on: hours on several devices, by their number.
        chain: hours of the longest chain of tasks that wait for each other.
        end: the label of the last task of that chain.
        rates: the origins of the rates from which this is predicted.
    """

    hours: float
    hours_on: Mapping[int, float]
    chain: float
    end: str
    rates: str


def predict(tasks: TaskGraph, rates: DeviceRates, devices: Sequence[int] = DEVICES) -> Prediction:
    """Predict how long tasks take.

    Args:
        tasks: at least one task.
        rates: the rates of a device.
        devices: the numbers of devices, besides one.
    """
    known = {network: rates.rate_of(network) for network in {task.network for task in tasks.values()}}
    hours = {key: task.examples / known[task.network].images_per_second / 3600 for key, task in tasks.items()}
    return Prediction(
        hours=sum(hours.values()),
        hours_on={n: makespan(hours, tasks, n) for n in devices},
        chain=max(longest_chains(hours, tasks).values()),
        end=tasks[end_of_longest_chain(hours, tasks)].label,
        rates="; ".join(sorted({rate.origin for rate in known.values()}, key=lambda o: (o.startswith(FROM_FLOPS), o))),
    )


PAPERS = {
    "": "The leaderboard, and this project's own studies",
    "late-phase": "Neural networks with late-phase weights (von Oswald et al. 2021)",
    "hypernetworks": "Economical ensembles with hypernetworks (Sacramento et al. 2020)",
    "subspaces": "Learning neural network subspaces (Wortsman et al. 2021)",
}
"""The folders of studies, and the headings of their tables."""
PAGE_TEXT = """\
# Scaling on paper

<!-- Written by `{command}`: change harness/planning/scaling_forecast.py, not this page. -->

This page predicts how long the full leaderboard, and the study of each table and figure of the three papers, would
train on 1, {several} GPUs. **Everything below is predicted**, from rates of plain training:

{sources}

{timed}
## How to read it

- **GPU-hours** are the hours on one GPU. For **hours on {several}**, each GPU trains one run or one trunk at a time. A
  trunk is training that several runs share; it is done once. No GPU idles while something can start. Whatever the most
  training waits for starts first. Any order without idle GPUs, also that of `econ run`, takes at most 2 − 1/n times as
  long as the best order on n GPUs (Graham 1969).
- **Longest chain**: the training that must be done one after another, however many GPUs there are. The last column
  names the end of that chain, or of one of several equally long chains. Hours that equal the longest chain are
  **bold**: more GPUs would not shorten them. Dividing a run among GPUs (`--ranks`) would. The prediction leaves that
  out. It also leaves out several runs on one GPU (`--per-gpu`), and whether a run fits into memory.
- **Rates** names the origin of the rates of a study's networks. The last table lists them. *From FLOPs*: the network's
  own rate is not known; it is estimated from the known network whose number of floating-point operations is nearest, in
  proportion to that number. *Optimistic*: that network needs more than {far:g} times as many operations. A small
  network, or one for text, keeps a GPU far less busy than a large one. Such hours are a lower bound, perhaps by a
  factor of ten or more.
- The cost of a method, in plain trainings, is what the method declares (`econ list methods`), with its passes over the
  training data after training if it declares them. Nothing else is counted: no evaluation (test data, OOD data,
  corrupted test sets), no other preparation of predictions, no reading of data, no starting of processes.
- The studies train in float32 as written. A column of bfloat16 means the same studies with `precision: bfloat16`. Their
  results differ.
- `econ tune` is not counted. Each trial is another run, unless it is pruned.
- **Total**: all studies of a paper, started together in one folder of runs. A run that several studies share is trained
  once, so that the total is less than the sum.
- Not listed, because they train nothing (simulated on a CPU in minutes): {simulated}.

{studies}
## Networks

{networks}"""


def render_page(workloads: Mapping[str, Workload], columns: Sequence[DeviceRates], command: str) -> str:
    """Return the page in Markdown.

    Args:
        workloads: the studies' workloads by name; studies that train nothing are only named.
        columns: the rates from which hours are predicted; each gets columns of its own.
        command: the command that writes the page.
    """
    studies = []
    for folder in sorted({folder_of(name) for name in workloads}, key=lambda f: [*PAPERS, f].index(f)):
        found = {name: workload for name, workload in workloads.items() if folder_of(name) == folder and workload.tasks}
        rows = [
            study_row(f"`{name}`", found[name].tasks, columns) for name in sorted(found, key=lambda n: n != FIRST_STUDY)
        ]
        rows += [study_row("**total**", merge_workloads(found.values()), columns)] if folder else []
        studies.append(f"## {PAPERS.get(folder, folder)}\n\n{markdown_table([*study_columns(columns)], rows)}")
    sources = [f"- {rates.name}: {rates.about}." for rates in columns]
    return PAGE_TEXT.format(
        command=command,
        several=" and ".join(map(str, DEVICES)),
        sources="\n".join(textwrap.fill(source, 120, subsequent_indent="  ") for source in sources),
        timed=reference_table(columns),
        far=OPTIMISTIC_RATIO,
        simulated=", ".join(f"`{name}`" for name, workload in workloads.items() if not workload.tasks) or "none",
        studies="\n".join(studies),
        networks=network_table(workloads.values(), columns),
    )


def folder_of(name: str) -> str:
    """Return a study's folder, which stands for its paper; "" for the project's own studies."""
    return name.rpartition("/")[0]


def study_columns(columns: Sequence[DeviceRates]) -> Iterable[str]:
    """Yield the column heads of a table of studies."""
    yield from ("study", "runs")
    for rates in columns:
        yield f"{rates.name}: {rates.unit}-hours"
        yield from (f"hours on {n}" for n in DEVICES)
        yield from ("longest chain", "rates")
    yield "the longest chain ends with"


def study_row(name: str, tasks: TaskGraph, columns: Sequence[DeviceRates]) -> list[str]:
    """Return the table row of a study: its prediction for each column's rates."""
    cells = [name, f"{sum(map(is_run_key, tasks)):,}"]
    predictions = [predict(tasks, rates) for rates in columns]
    for found in predictions:
        cells.append(format_number(found.hours))
        cells += [
            f"**{format_number(hours)}**" if math.isclose(hours, found.chain) else format_number(hours)
            for hours in found.hours_on.values()
        ]
        cells += [format_number(found.chain), found.rates]
    return [*cells, "; ".join(dict.fromkeys(found.end for found in predictions))]


def reference_table(columns: Sequence[DeviceRates]) -> str:
    """Return the table of the training that the late-phase paper timed."""
    architecture, data, epochs = REFERENCE_TRAINING
    (measured,) = paper_rates().cells
    network = Network(architecture, measured.image, data.classes, measured.batch_size, measured.forward_flops)
    rows = []
    for rates in columns:
        rate = rates.rate_of(network)
        hours = data.train * epochs / rate.images_per_second / 3600
        rows.append([rates.name, f"{rate.images_per_second:,.0f}", f"{hours:.2f}", describe_origin(rate)])
    return markdown_table([f"one run: {architecture}, {epochs} epochs of CIFAR-10", "images/s", "hours", "rate"], rows)


def describe_origin(rate: TrainingRate) -> str:
    """Return the origin of a rate, with the network from which it is estimated."""
    return f"{rate.origin} of {rate.network}" if rate.origin.startswith(FROM_FLOPS) else rate.origin


def network_table(workloads: Iterable[Workload], columns: Sequence[DeviceRates]) -> str:
    """Return the table of the networks' rates and their origins."""
    used = {task.network for workload in workloads for task in workload.tasks.values()}
    head = ["network", "image", "classes", "minibatch", "forward GFLOP"]
    head += [part for rates in columns for part in (f"{rates.name}: examples/s", "rate")]
    rows = []
    for network in sorted(used, key=lambda network: (-network.forward_flops, network)):
        image = "×".join(map(str, network.image)) if network.image else "text"
        cells = [network.architecture, image, str(network.classes), str(network.batch_size)]
        cells.append(f"{network.forward_flops / 1e9:,.2g}")
        for rates in columns:
            rate = rates.rate_of(network)
            cells += [f"{rate.images_per_second:,.0f}", describe_origin(rate)]
        rows.append(cells)
    return markdown_table(head, rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(
    rates: Annotated[
        Path | None, typer.Option(help="A benchmark's file of measured rates. Default: our targets.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The page to write. Default: print it.")] = None,
) -> None:
    """Predict how long each study that comes with the project takes on one GPU and on several."""
    try:
        columns = [paper_rates(), *(read_rates(rates) if rates else [target_rates()])]
    except RatesError as error:
        raise SystemExit(str(error)) from error
    chosen = ["--rates", rates.as_posix()] if rates else []
    command = shlex.join(
        ["python", "-m", "harness.planning.scaling_forecast", *chosen, "--output", (output or PAGE).as_posix()]
    )
    text = render_page(load_workloads(), columns, command)
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    typer.run(main)
