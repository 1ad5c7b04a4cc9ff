"""Two permanent ranks for live as long as a test module, and the functions that tests call in both.

Each that also works in a single process, with a group of one rank.
"""

import threading
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.multiprocessing
from torch import Generator, Tensor, nn

from data.tasks.task import shard_bounds
from harness.costs.cost import CostCounter
from harness.running.distributed import group as distributed
from harness.running.distributed.group import Group
from harness.running.distributed.ranks import Report, run_ranks
from harness.running.distributed.synchronized import DividedRecipe, synchronize
from harness.running.execute import finish_in_process
from harness.running.optimizers import make_optimizer
from harness.running.settings import Settings
from harness.running.training_loop import train_epoch
from harness.store.outcome import DivergenceError
from harness.store.run_folder import RunFolder
from harness.studies.build_method import make_method
from harness.studies.run import Run
from methods import MakeNet, Method, Recipe
from methods.core.method import prepare_for_prediction
from tests.conftest import NETS, separable

Tensors = dict[str, Tensor]


def serve(connections: Sequence[Connection], *, group: Group, report: Report) -> None:
    """Call the functions the arrive over the connection of this rank, and send back their results."""
    while (asked := connections[group.rank].recv()) is not None:
        function, arguments = asked
        try:
            answer = function(group, *arguments)
        except Exception:
            answer = AssertionError(traceback.format_exc())
        connections[group.rank].send(answer)


class TwoRanks:
    """Two ranks on the CPU, each a process."""

    def __init__(self) -> None:
        pipes = [torch.multiprocessing.get_context("spawn").Pipe() for _ in range(2)]
        self.connections = [here for here, _ in pipes]
        job = partial(serve, [there for _, there in pipes])
        self.thread = threading.Thread(target=run_ranks, args=(job, 2, "cpu", lambda: None), daemon=True)
        self.thread.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function in both ranks, with the group and these arguments. Return both results."""
        for connection in self.connections:
            connection.send((function, arguments))
        answers = []
        for connection in self.connections:
            assert connection.poll(120), "a rank does not answer"
            answers.append(connection.recv())
        for answer in answers:
            if isinstance(answer, AssertionError):
                raise answer
        return answers

    def close(self) -> None:
        """End both ranks."""
        for connection in self.connections:
            connection.send(None)
        self.thread.join()


class Rows(list[tuple[Tensor, Tensor]]):
    """The rows of one rank, for minibatches in a fixed order."""

    def __init__(self, group: Group, examples: int, batch_size: int, seed: int = 0) -> None:
        self.examples = examples
        x, y = separable(examples, seed)
        for start in range(0, examples, batch_size):
            own = slice(*shard_bounds(start, min(start + batch_size, examples), group.rank, group.size))
            self.append((x[own].double(), y[own]))

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """Return the same minibatches."""
        return self

    def shard(self, part: int, parts: int) -> Self:
        """Return the same minibatches."""
        return self


def build_method(group: Group, maker: Callable[..., Method], recipe: Recipe, net: str, hyperparameters: Any) -> Method:
    """Build a method in float64."""

    def draw(**options: Any) -> nn.Module:
        return synchronize(NETS[net](**options), group)

    return maker(MakeNet(draw, 0), DividedRecipe.of(recipe, group), **hyperparameters).double()


def train(
    group: Group, maker: Callable[..., Method], recipe: Recipe, net: str, hyperparameters: Any
) -> tuple[Tensors, list[float], Any]:
    """Train and prepare a method in float64, on minibatches of 9 and a last one of 7. Return state, losses and cost."""
    method = build_method(group, maker, recipe, net, hyperparameters)
    counter = CostCounter()
    method.net.register_forward_pre_hook(counter)
    optimizer = make_optimizer(method, method.recipe)
    optimizer.register_step_post_hook(counter.step)
    group.synchronize_gradients(method, optimizer)
    losses = []
    cpu = torch.device("cpu")
    for epoch in range(recipe.epochs):
        with group.joint_training(counter), counter.training(cpu):
            orders = [Rows(group, 61, 9, seed=10 * epoch + order) for order in range(4)]
            losses.append(train_epoch(method, optimizer, orders.__getitem__, epoch, group.mean)[0])
            if method.watches:
                method.watch(group.whole_batches(Rows(Group(), 20, 8, seed=99), counter), Rows(group, 61, 9, seed=98))
        group.average_carried_gradients(method)
    with group.joint_training(counter), counter.training(cpu):
        prepare_for_prediction(method, Rows(group, 61, 9, seed=97))
    state = {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    with torch.no_grad():
        state["predictions"] = method.predict(separable(12, seed=96)[0].double())
    cost = counter.cost
    return state, losses, (cost.forward_examples, cost.backward_examples, cost.optimizer_steps)


def run_layer(group: Group, layer: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> list[Any]:
    """Run a layer in training mode on a rank's rows of minibatches (x, dy). Return y, gradients and buffers."""
    layer = synchronize(deepcopy(layer), group)
    found: list[Any] = []
    group.joint = group.size > 1
    for x, dy in batches:
        own = slice(*shard_bounds(0, len(x), group.rank, group.size))
        mine = x[own].clone().requires_grad_()
        y = layer(mine)
        parameters = list(layer.parameters())
        x_gradient, *others = torch.autograd.grad(y, [mine, *parameters], dy[own])
        if group.size > 1 and others:
            others = [gradient.contiguous() * group.size for gradient in others]
            group.average(others)  # the mean of gradients multiplied by the number of ranks is their sum
        found.append((y.detach(), x_gradient, others, [buffer.clone() for buffer in layer.buffers()]))
    group.joint = False
    return found


def run_random_layer(group: Group, layer: nn.Module, x: Tensor, joined: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run a layer that draws random numbers, after seeding.

    Return its outputs, the gradients of x, and the next random number.
    """
    layer = synchronize(deepcopy(layer), group)
    own = slice(*shard_bounds(0, len(x), group.rank, group.size))
    mine = x[own].clone().requires_grad_()
    torch.manual_seed(3)
    group.joint = joined and group.size > 1
    y = layer(mine)
    group.joint = False
    y.sum().backward()
    assert mine.grad is not None
    return y.detach(), mine.grad, torch.rand(1)


def average_tensors(group: Group, bucket: int) -> list[Tensor]:
    """Average tensors of several types and layouts over the ranks. Their values depend on the rank."""
    tensors = [
        torch.full((3, 2), float(group.rank), dtype=torch.float64),
        torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last) * (group.rank + 1),
        torch.tensor(10.0 * group.rank),
        torch.full((5,), 2.0 * group.rank),
    ]
    before, distributed.BUCKET = distributed.BUCKET, bucket
    try:
        group.average(tensors)
    finally:
        distributed.BUCKET = before
    return tensors


def train_on_nan(group: Group, recipe: Recipe) -> str:
    """Train on rows that contain NaN in one rank only. Return the message of the divergence, or "finished"."""
    from methods import SGD

    method = build_method(group, SGD, recipe, "tiny", {})
    optimizer = make_optimizer(method, recipe)
    group.synchronize_gradients(method, optimizer)
    rows = Rows(group, 61, 9)
    if group.rank == 1:
        rows[-1][0].fill_(torch.nan)
    try:
        with group.joint_training(CostCounter()):
            train_epoch(method, optimizer, lambda _: rows, 0, group.mean)
    except DivergenceError as error:
        return str(error)
    return "finished"


def share_gradients(group: Group, maker: Callable[..., Method], recipe: Recipe, hyperparameters: Any) -> str:
    """Share the gradients of a method between ranks. Return the message of an error, or "shared"."""
    method = build_method(group, maker, recipe, "tiny", hyperparameters)
    try:
        group.synchronize_gradients(method, make_optimizer(method, recipe))
    except ValueError as error:
        return str(error)
    return "shared"


def execute_run(group: Group, run: Run, settings: Settings, needed: list[str]) -> None:
    """Execute a run without recording failures."""
    folder = RunFolder(settings.runs, run.key)
    finish_in_process(run, settings, folder, needed, (), (), group=group, report=lambda: None)


def state_names(group: Group, run: Run, methods: Any, shape: Any) -> list[str]:
    """List the names in the state of a run's method."""
    method = make_method(run, methods, shape, lambda net: synchronize(net, group))
    return list(method.state_dict())


def list_in_turn(group: Group, folder: Path) -> list[str]:
    """List a folder and add a file to it, one rank after the other. Return what this rank listed."""
    with group.rank_0_first():
        there = sorted(path.name for path in folder.iterdir())
        (folder / f"rank {group.rank}").touch()
    return there
