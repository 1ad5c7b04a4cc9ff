"""Builds the method of a run, on its device, and its optimizer."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from data import DatasetShape, ImageTask, Task
from harness.costs.cost import CostCounter
from harness.running.compilation import clone_gradients, compile_forward
from harness.running.distributed.group import Group
from harness.running.distributed.synchronized import DividedRecipe, synchronize
from harness.running.fusing_limit import fuse_up_to
from harness.running.optimizers import make_optimizer
from harness.running.precision import use_bfloat16
from harness.running.settings import Settings
from harness.store import checkpoint as checkpoints
from harness.studies.build_method import make_method
from harness.studies.run import Run
from methods import Method
from methods.core.random_streams import all_seeded, stream
from methods.core.wrapper import methods_within


class MethodSetup(NamedTuple):
    """A run's method, ready to train.

    Attributes:
        method: the method, on its device.
        optimizer: its optimizer; None if the method trains nothing.
        compile: how torch compiles its networks; "off" for tasks other than images.
        fuse_up_to: the size of the largest minibatch for which its members are fused.
    """

    method: Method
    optimizer: Optimizer | None
    compile: str
    fuse_up_to: int


def set_up_method(
    run: Run, settings: Settings, task: Task, counter: CostCounter, group: Group, methods: Mapping[str, type[Method]]
) -> MethodSetup:
    """Build a run's method and its optimizer.

    Args:
        run: the run's spec.
        settings: folders, device and speed options.
        task: the run's data.
        counter: counts the cost of the method's networks and of its optimizer.
        group: the ranks that train the run together.
        methods: the known methods, with those of plugins.
    """
    compile_mode = settings.compile if isinstance(task, ImageTask) else "off"
    if compile_mode != "off":
        torch.compiler.reset()  # torch keeps few programs per process, and would not compile those of later runs
    device = torch.device(settings.device)

    def set_up_network(net: nn.Module) -> nn.Module:
        """Add synchronized layers, memory layout, compilation, cost hooks and precision to a new network."""
        net = synchronize(net, group).to(memory_format=torch.channels_last)
        if compile_mode != "off":
            compile_forward(net, compile_mode)
        net.register_forward_pre_hook(counter)
        if run.precision == "bfloat16":
            use_bfloat16(net, device.type)
        return net

    recipe = DividedRecipe.of(run.recipe, group)
    method = make_method(run, methods, task.shape, set_up_network, settings.downloads / "weights", recipe).to(device)
    synchronize(method, group)  # the layers that the method put into its networks
    optimizer = None
    if method.epochs:
        grouping = stream(run.seed, "global generators in param_groups")
        with all_seeded(grouping):
            checkpoints.check_parameter_names(method)
        with all_seeded(grouping):  # which calls `param_groups` again
            optimizer = make_optimizer(method, method.recipe)
        optimizer.register_step_post_hook(counter.step)
    if compile_mode == "reduce-overhead":
        clone_gradients(method)
    limit = fuse_up_to(settings, run, task.shape)
    for part in methods_within(method):
        part.fuse_up_to = limit
    group.synchronize_gradients(method, optimizer)
    return MethodSetup(method, optimizer, compile_mode, limit)


def example_inputs(shape: DatasetShape) -> torch.Tensor:
    """Return two inputs of a task without any meaning: noise for images, (2, C, H, W); for text, symbols, (2, 8)."""
    generator = torch.Generator().manual_seed(0)
    if shape.in_channels is None or shape.image_size is None:
        return torch.randint(shape.classes, (2, 8), generator=generator)
    return torch.randn(2, shape.in_channels, shape.image_size, shape.image_size, generator=generator)
