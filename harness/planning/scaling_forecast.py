"""How long studies would take on so many GPUs, predicted from rates of plain training.

`python -m harness.planning.scaling_forecast --output docs/scaling.md` writes the page; with
`--rates FILE`, from a benchmark's file.
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
    FAR,
    FROM_FLOPS,
    Rate,
    Rates,
    RatesError,
    paper_rates,
    read_rates,
    target_rates,
)
from harness.planning.study_cost import MEASURED, short
from harness.planning.workload import (
    Network,
    Tasks,
    Work,
    all_work,
    end_of_longest_chain,
    is_run,
    longest_chains,
    schedule,
    together,
)

PAGE = Path("docs/scaling.md")
FIRST = "leaderboard"
DEVICES = (8, 64)
"""How many GPUs there may be, besides one."""


@dataclass(frozen=True)
class Prediction:
    """How long some tasks take.

    Attributes:
        hours: on one device.
        on: on so many.
        chain: of the tasks that wait for each other longest.
        end: the label of the last one of them.
        rates: where those of their networks are from.
    """

    hours: float
    on: Mapping[int, float]
    chain: float
    end: str
    rates: str


def predict(tasks: Tasks, rates: Rates, devices: Sequence[int] = DEVICES) -> Prediction:
    """Predict how long tasks take, of which there must be one or more."""
    known = {network: rates.of(network) for network in {task.network for task in tasks.values()}}
    hours = {key: task.examples / known[task.network].images_per_second / 3600 for key, task in tasks.items()}
    return Prediction(
        hours=sum(hours.values()),
        on={n: schedule(hours, tasks, n) for n in devices},
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
"""The folders of studies, and what they are."""
PAGE_TEXT = """\
# Scaling on paper

<!-- Written by `{command}`: change harness/scaling.py, not this page. -->

How long the full leaderboard, and the study of each table and figure of the three papers, would take to train on 1,
{several} GPUs. **Everything below is predicted**, from rates of plain training:

{sources}

{timed}
## How to read it

- **GPU-hours** are the hours on one GPU. **Hours on {several}**: each GPU trains one run at a time, or a trunk: what
  several runs have in common, which is trained once. None idles while something could start, and what most training
  waits for starts first. Any other such order, `econ run`'s too, takes at most 2 − 1/n times as long as the best one on
  n GPUs (Graham 1969).
- **Longest chain**: the training that must be done one after another, however many GPUs there are; the last column says
  what it (or one of several as long) ends with. Hours that it alone decides are **bold**: more GPUs would not shorten
  them. Dividing a run among GPUs (`--ranks`) would; that is not in the figures, nor are several runs on one GPU
  (`--per-gpu`), nor whether a run fits into its memory.
- **Rates** says where those of a study's networks are from; the last table lists them. *From FLOPs*: the network's own
  is not known; taken is that of the known network whose number of floating-point operations is nearest, in proportion
  to these. *Optimistic*: that network has more than {far:g} times as many. A small network, or one for text, keeps a
  GPU far less busy than a large one, so that such hours are a lower bound, perhaps by a factor of ten or more.
- A method costs as many plain trainings as it says itself (`econ list methods`), with the passes over the training data
  after training where it names them. Nothing else is in the figures: no evaluation (test data, other distributions,
  corrupted test sets), no other preparing of a prediction, no reading of data, no starting of processes.
- The studies as they are written train in float32. In a column of bfloat16, the same studies with `precision: bfloat16`
  are meant, whose results are others.
- What `econ tune` would search is in no figure: each trial is a run more, where it is not pruned.
- **Total**: all of a paper's studies in one folder of runs, begun at once. A run that several have is trained once, so
  that it is less than their sum.
- Left out, for nothing is trained (simulated on a CPU in minutes): {simulated}.

{studies}
## Networks

{networks}"""


def page(works: Mapping[str, Work], columns: Sequence[Rates], command: str) -> str:
    """Write the page in Markdown.

    Args:
        works: of the studies by name; those that train nothing are only named.
        columns: the rates from which hours are predicted, each in columns of their own.
        command: that writes it.
    """
    studies = []
    for folder in sorted({folder_of(name) for name in works}, key=lambda f: [*PAPERS, f].index(f)):
        found = {name: work for name, work in works.items() if folder_of(name) == folder and work.tasks}
        rows = [row(f"`{name}`", found[name].tasks, columns) for name in sorted(found, key=lambda n: n != FIRST)]
        rows += [row("**total**", together(found.values()), columns)] if folder else []
        studies.append(f"## {PAPERS.get(folder, folder)}\n\n{table([*heading(columns)], rows)}")
    sources = [f"- {rates.name}: {rates.about}." for rates in columns]
    return PAGE_TEXT.format(
        command=command,
        several=" and ".join(map(str, DEVICES)),
        sources="\n".join(textwrap.fill(source, 120, subsequent_indent="  ") for source in sources),
        timed=timed(columns),
        far=FAR,
        simulated=", ".join(f"`{name}`" for name, work in works.items() if not work.tasks) or "none",
        studies="\n".join(studies),
        networks=networks(works.values(), columns),
    )


def folder_of(name: str) -> str:
    """Give a study's folder, which stands for its paper; "" for the project's own."""
    return name.rpartition("/")[0]


def heading(columns: Sequence[Rates]) -> Iterable[str]:
    """Give the heads of a table of studies."""
    yield from ("study", "runs")
    for rates in columns:
        yield f"{rates.name}: {rates.unit}-hours"
        yield from (f"hours on {n}" for n in DEVICES)
        yield from ("longest chain", "rates")
    yield "the longest chain ends with"


def row(name: str, tasks: Tasks, columns: Sequence[Rates]) -> list[str]:
    """Write what is predicted of a study."""
    cells = [name, f"{sum(map(is_run, tasks)):,}"]
    predictions = [predict(tasks, rates) for rates in columns]
    for found in predictions:
        cells.append(short(found.hours))
        cells += [
            f"**{short(hours)}**" if math.isclose(hours, found.chain) else short(hours) for hours in found.on.values()
        ]
        cells += [short(found.chain), found.rates]
    return [*cells, "; ".join(dict.fromkeys(found.end for found in predictions))]


def timed(columns: Sequence[Rates]) -> str:
    """Tabulate the training that the late-phase paper timed."""
    architecture, data, epochs = MEASURED
    (measured,) = paper_rates().cells
    network = Network(architecture, measured.image, data.classes, measured.batch_size, measured.operations)
    rows = []
    for rates in columns:
        rate = rates.of(network)
        hours = data.train * epochs / rate.images_per_second / 3600
        rows.append([rates.name, f"{rate.images_per_second:,.0f}", f"{hours:.2f}", origin(rate)])
    return table([f"one run: {architecture}, {epochs} epochs of CIFAR-10", "images/s", "hours", "rate"], rows)


def origin(rate: Rate) -> str:
    """Say where a rate is from."""
    return f"{rate.origin} of {rate.network}" if rate.origin.startswith(FROM_FLOPS) else rate.origin


def networks(works: Iterable[Work], columns: Sequence[Rates]) -> str:
    """Tabulate the rate of each network, and whose it is."""
    used = {task.network for work in works for task in work.tasks.values()}
    head = ["network", "image", "classes", "minibatch", "forward GFLOP"]
    head += [part for rates in columns for part in (f"{rates.name}: examples/s", "rate")]
    rows = []
    for network in sorted(used, key=lambda network: (-network.operations, network)):
        image = "×".join(map(str, network.image)) if network.image else "text"
        cells = [network.architecture, image, str(network.classes), str(network.batch_size)]
        cells.append(f"{network.operations / 1e9:,.2g}")
        for rates in columns:
            rate = rates.of(network)
            cells += [f"{rate.images_per_second:,.0f}", origin(rate)]
        rows.append(cells)
    return table(head, rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(
    rates: Annotated[Path | None, typer.Option(help="What a benchmark measured; without it, what we aim at.")] = None,
    output: Annotated[Path | None, typer.Option(help="The page to write; without it, it is printed.")] = None,
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
    text = page(all_work(), columns, command)
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    typer.run(main)
