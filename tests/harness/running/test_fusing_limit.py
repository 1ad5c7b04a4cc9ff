"""The largest minibatch for which members are run as one batch."""

import json
import sys
from pathlib import Path

import pytest
import torch

from data import DatasetShape
from harness.planning.study_cost import forward_flops
from harness.running.execute import execute
from harness.running.fusing_limit import CPU_PIXELS, GPU_OPERATIONS, fuse_up_to
from harness.running.lifecycle import RunLifecycle
from harness.running.settings import Settings
from harness.store.checkpoint import load
from harness.store.run_folder import RunFolder
from methods.core.wrapper import methods_within

DIGITS, CIFAR = DatasetShape(1, 8, 10, 1000), DatasetShape(3, 32, 10, 50_000)


@pytest.mark.parametrize(("shape", "expected"), [(DIGITS, 128), (CIFAR, 8)])
def test_on_a_cpu_the_limit_is_in_pixels(make_run, shape, expected):
    assert fuse_up_to(Settings(), make_run(), shape) == expected


def test_on_a_gpu_the_limit_is_in_operations(make_run):
    run = make_run().model_copy(update={"architecture": "cresnet20"})
    limit = fuse_up_to(Settings(device="cuda:1"), run, CIFAR)
    one = forward_flops("cresnet20", CIFAR, 0)
    assert limit * one <= GPU_OPERATIONS < (limit + 1) * one
    large = make_run().model_copy(update={"architecture": "wrn-28-10"})
    assert fuse_up_to(Settings(device="cuda"), large, CIFAR) < 128 < limit


def test_always_and_never_but_ranks_and_text_are_never_fused(make_run):
    run = make_run()
    assert fuse_up_to(Settings(fuse="always"), run, CIFAR) == sys.maxsize
    assert fuse_up_to(Settings(fuse="never"), run, DIGITS) == 0
    assert fuse_up_to(Settings(fuse="always", ranks=2), run, DIGITS) == 0
    assert fuse_up_to(Settings(fuse="always"), run, DatasetShape(None, None, 50, 1000)) == 0


def test_the_limit_reaches_wrapped_methods_and_copies(make_run, tmp_path):
    run = make_run("swa(late_phase_bn(K=2, start=1, prediction=members), start=2)")
    lifecycle = RunLifecycle(run, Settings(tmp_path), RunFolder(tmp_path, run.key), lambda: None)
    parts = methods_within(lifecycle.method)
    assert len(parts) == 3
    assert {part.fuse_up_to for part in parts} == {CPU_PIXELS // lifecycle.task.shape.image_size**2}


def test_a_fused_run_equals_the_run_up_to_rounding_and_records_the_limit(make_run, tmp_path):
    """Its key is the same, and so are its costs."""
    run = make_run("late_phase_bn(K=3, start=1, prediction=members)")
    found, states = [], []
    for fuse in ("always", "never"):
        settings = Settings(Path(tmp_path, fuse), fuse=fuse)
        assert execute(run, settings, []).state == "finished"
        folder = RunFolder(settings.runs, run.key)
        found.append(json.loads(folder.result.read_text()))
        states.append(load(folder.checkpoint, run.key).method)
    always, never = found
    assert (always["provenance"]["fuse_up_to"], never["provenance"]["fuse_up_to"]) == (str(sys.maxsize), "0")
    counted = ("forward_examples", "backward_examples", "optimizer_steps")
    assert [always["cost"][name] for name in counted] == [never["cost"][name] for name in counted]
    assert always["metrics"]["members"] == never["metrics"]["members"] == 3
    assert always["metrics"]["nll"] == pytest.approx(never["metrics"]["nll"], rel=1e-3)
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)
