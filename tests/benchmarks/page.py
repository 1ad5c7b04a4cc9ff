"""Write what was measured into docs/speed.md: `python -m tests.benchmarks.page`, from results/measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, MEASURED = ROOT / "docs" / "speed.md", ROOT / "results" / "measured"
BEGIN = "<!-- measured: written by `python -m tests.benchmarks.page` from results/measured -->\n"
END = "<!-- end of what was measured -->\n"
PEERS = {
    "loader / harness": "plain training, pictures from a DataLoader",
    "module / harness": "plain training, pictures from its data module",
    "batched / harness batched": "BatchEnsemble, K = 4, pictures from a DataLoader",
}


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Write a Markdown table."""
    yield from ("| " + " | ".join(row) + " |\n" for row in [head, ["---"] * len(head), *rows])


def lines(speed: dict[str, Any], peers: dict[str, Any]) -> Iterator[str]:
    """Write the section."""
    device = speed["device"]
    yield (
        f"On {device['threads']} cores ({device['name']}, torch {device['torch']}), by `make benchmark` at commit "
        f"{speed['commit']}\nand `make benchmark-peers` at commit {peers['commit']}. The peak is the most that a large "
        f"product or convolution reaches,\n{speed['matrix_peak']['float32'] / 1e9:.0f} GFLOP/s.\n\n"
    )
    plain = [cell for cell in speed["cells"] if "over_bare_loop" in cell]
    yield from table(
        ["plain training, 32 × 32 pixels", "batch", "images/s", "ms an update", "of the peak", "time / bare loop's"],
        [
            [
                cell["architecture"],
                str(cell["batch_size"]),
                f"{cell['images_per_second']:,.0f}",
                f"{cell['ms_per_update']:,.0f}",
                f"{cell['of_matrix_peak']:.0%}",
                f"{cell['over_bare_loop']:.3f}",
            ]
            for cell in plain
        ],
    )
    methods = [cell for cell in speed["cells"] if "over_sgd" in cell]
    first = methods[0]
    yield "\n"
    yield from table(
        [first["architecture"], "batch", "time / plain training's"],
        [[f"`{cell['method']}`", str(cell["batch_size"]), f"{cell['over_sgd']:.2f}"] for cell in methods],
    )
    fused = [cell for cell in speed["cells"] if "sequential_over_fused" in cell]
    first = fused[0]
    side = first["image"][1]
    yield "\n"
    yield from table(
        [f"{first['architecture']}, {side} × {side} pixels, {first['batch_size']} a minibatch", "one by one / fused"],
        [[f"`{cell['method']}`", f"{cell['sequential_over_fused']:.2f}"] for cell in fused],
    )
    yield "\n"
    yield from table(
        ["ResNet of 8 layers, minibatches of 128", "times as fast as torch-uncertainty 0.13"],
        [[what, f"{peers['ratios'][name]:.2f}"] for name, what in PEERS.items()],
    )


def written(page: str) -> str:
    """Put what was measured into the page."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    read = (json.loads((MEASURED / f"speed-{name}.json").read_text()) for name in ("cpu", "peers"))
    return before + BEGIN + "".join(lines(*read)) + END + after


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
