"""Time cycles of ten members one by one against as one batch, on both sides of where the CPU fuses them.

`python -m tests.benchmarks.fusion` takes some minutes.
"""

from dataclasses import replace

from harness.running.fusing_limit import CPU_PIXELS
from harness.running.worker_process import keep_freed_memory
from tests.benchmarks.cells import Cell, build, harness_epoch
from tests.benchmarks.comparison import Measured, in_turns

SMALL = [
    Cell("lenet5", batch_size=32, channels=1, side=8),
    Cell("lenet5", batch_size=128, channels=1, side=8),
    Cell("wrn-10-1", batch_size=32, channels=1, side=8),
    Cell("wrn-10-1", batch_size=128, channels=1, side=8),
    Cell("wrn-16-4", batch_size=64, channels=1, side=8),
    Cell("cresnet20", batch_size=32, side=16),
    Cell("cresnet20", batch_size=4),
    Cell("cresnet20", batch_size=16),
    Cell("lenet5", batch_size=128),
    Cell("cresnet20", batch_size=128),
]


def main() -> None:
    """Print how many times as fast one batch is."""
    keep_freed_memory()
    for method in ("late_phase_bn(K=10, start=500)", "late_phase_rank1(K=10, start=500)"):
        for cell in SMALL:
            fused = replace(cell, fuse_up_to=cell.batch_size)
            epochs = {"one by one": harness_epoch(cell, build(method)), "fused": harness_epoch(fused, build(method))}
            timing = in_turns(epochs, cell.device, rounds=5, warm_up=1)
            gain = Measured.of(timing.ratios("one by one", "fused"))
            pixels = cell.batch_size * cell.side**2
            side = "fused" if pixels <= CPU_PIXELS else "one by one"
            print(f"{method:35} {cell.architecture:10} {pixels:7,} pixels  {gain}  ({side} by default)", flush=True)


if __name__ == "__main__":
    main()
