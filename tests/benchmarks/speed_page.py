"""Writes the measured figures into docs/speed.md: `python -m tests.benchmarks.speed_page`, from results/measured."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, MEASURED = ROOT / "docs" / "speed.md", ROOT / "results" / "measured"
BEGIN = "<!-- measured: written by `python -m tests.benchmarks.speed_page` from results/measured -->\n"
END = "<!-- end of what was measured -->\n"
PEERS = {
    "loader / harness": "plain training, images from a DataLoader",
    "module / harness": "plain training, images from its data module",
    "batched / harness batched": "BatchEnsemble, K = 4, images from a DataLoader",
    "memory / bare": "a bare loop, images that are ready in memory for both",
}


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield from ("| " + " | ".join(row) + " |\n" for row in [head, ["---"] * len(head), *rows])


def format_figure(figure: dict[str, Any]) -> list[str]:
    """Return a figure, its quartiles, and its bound with a mark if it is missed, for three columns."""
    lower, upper = figure["quartiles"]
    cells = [f"{figure['value']:.3f}", f"{lower:.3f} to {upper:.3f} of {figure['rounds']}"]
    if figure["bound"] is None:
        return [*cells, ""]
    bound = f"{'≥' if figure['at_least'] else '≤'} {figure['bound']:.2f}"
    return [*cells, bound if figure["kept"] else f"{bound} **missed**"]


def describe_missed(figures: dict[str, dict[str, Any]]) -> str:
    """Say which figures miss their bounds."""
    bad = [name for name, figure in figures.items() if figure["kept"] is False]
    bounds = sum(figure["bound"] is not None for figure in figures.values())
    if not bad:
        return f"All of the {bounds} bounds held in these measurements."
    return f"**{len(bad)} of the {bounds} bounds did not hold in these measurements**: {'; '.join(bad)}."


COLUMNS = ["quartiles of rounds", "bound"]
LOOP, ITSELF, METHOD, FUSED = "over_bare_loop", "over_itself", "over_sgd", "sequential_over_fused"
"""Keys of the figures in the file of results."""


def section_lines(speed: dict[str, Any], peers: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the measured section."""
    device, cells = speed["device"], speed["cells"]
    figures = {
        f"{cell['architecture']}, {what}": cell[key]
        for cell in cells
        for key, what in ((LOOP, "plain training"), (METHOD, f"`{cell['method']}`"), (FUSED, f"`{cell['method']}`"))
        if key in cell
    }
    figures |= {f"torch-uncertainty, {what}": peers["ratios"][name] for name, what in PEERS.items()}
    about = (
        f"On {device['threads']} cores ({device['name']}, torch {device['torch']}), by `make benchmark` at commit "
        f"{speed['commit']} and `make benchmark-peers` at commit {peers['commit']}. Ratios are medians over the rounds "
        "of two processes, within which all that is compared is timed in turns. The peak is the most that a large "
        f"product or convolution reaches, {speed['matrix_peak']['float32'] / 1e9:.0f} GFLOP/s."
    )
    yield from (textwrap.fill(part, 120) + "\n\n" for part in (about, describe_missed(figures)))
    yield from table(
        ["32 × 32 pixels", "batch", "images/s", "ms an update", "of the peak", "time / bare loop's", *COLUMNS],
        [
            [
                cell["architecture"] + (", the bare loop itself" if ITSELF in cell else ""),
                str(cell["batch_size"]),
                f"{cell['images_per_second']:,.0f}",
                f"{cell['ms_per_update']:,.0f}",
                f"{cell['of_matrix_peak']:.0%}" if LOOP in cell else "",
                *format_figure(cell[LOOP] if LOOP in cell else cell[ITSELF]),
            ]
            for cell in cells
            if LOOP in cell or ITSELF in cell
        ],
    )
    methods = [cell for cell in cells if METHOD in cell]
    yield "\n"
    yield from table(
        [methods[0]["architecture"], "batch", "time / plain training's", *COLUMNS],
        [[f"`{cell['method']}`", str(cell["batch_size"]), *format_figure(cell[METHOD])] for cell in methods],
    )
    fused = [cell for cell in cells if FUSED in cell]
    first, side = fused[0], fused[0]["image"][1]
    yield "\n"
    yield from table(
        [
            f"{first['architecture']}, {side} × {side} pixels, {first['batch_size']} a minibatch",
            "one by one / fused",
            *COLUMNS,
        ],
        [[f"`{cell['method']}`", *format_figure(cell[FUSED])] for cell in fused],
    )
    yield "\n"
    yield from table(
        ["ResNet of 8 layers, minibatches of 128", "times as fast as torch-uncertainty 0.13", *COLUMNS],
        [[what, *format_figure(peers["ratios"][name])] for name, what in PEERS.items()],
    )


def update_page(page: str) -> str:
    """Return the page with the measured section from results/measured."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    read = (json.loads((MEASURED / f"speed-{name}.json").read_text()) for name in ("cpu", "peers"))
    return before + BEGIN + "".join(section_lines(*read)) + END + after


if __name__ == "__main__":
    PAGE.write_text(update_page(PAGE.read_text()))
