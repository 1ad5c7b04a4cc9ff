"""Compares sequential with fused late-phase members on a CPU, below and above the size up to which they are fused.

`python -m tests.benchmarks.fusion` takes some minutes.
"""

from dataclasses import replace

from harness.running.fusing_limit import CPU_PIXELS
from harness.running.worker_process import keep_freed_memory
from tests.benchmarks.epochs import TrainingSetup, build, harness_epoch
from tests.benchmarks.timing import Measurement, time_in_turns

SETUPS = [
    TrainingSetup("lenet5", batch_size=32, channels=1, side=8),
    TrainingSetup("lenet5", batch_size=128, channels=1, side=8),
    TrainingSetup("wrn-10-1", batch_size=32, channels=1, side=8),
    TrainingSetup("wrn-10-1", batch_size=128, channels=1, side=8),
    TrainingSetup("wrn-16-4", batch_size=64, channels=1, side=8),
    TrainingSetup("cresnet20", batch_size=32, side=16),
    TrainingSetup("cresnet20", batch_size=4),
    TrainingSetup("cresnet20", batch_size=16),
    TrainingSetup("lenet5", batch_size=128),
    TrainingSetup("cresnet20", batch_size=128),
]


def main() -> None:
    """Print how many times faster fused members are, for each setup."""
    keep_freed_memory()
    for method in ("late_phase_bn(K=10, start=500)", "late_phase_rank1(K=10, start=500)"):
        for setup in SETUPS:
            fused = replace(setup, fuse_up_to=setup.batch_size)
            epochs = {"one by one": harness_epoch(setup, build(method)), "fused": harness_epoch(fused, build(method))}
            timing = time_in_turns(epochs, setup.device, rounds=5, warm_up=1)
            gain = Measurement.of(timing.ratios("one by one", "fused"))
            pixels = setup.batch_size * setup.side**2
            side = "fused" if pixels <= CPU_PIXELS else "one by one"
            print(f"{method:35} {setup.architecture:10} {pixels:7,} pixels  {gain}  ({side} by default)", flush=True)


if __name__ == "__main__":
    main()
