"""Two permanent ranks for tests, and the functions that tests call in both of them, or in a single process."""

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

from data.tasks.task import share
from harness.costs.cost import Counter
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
from tests.conftest import NETS, separable

Tensors = dict[str, Tensor]


def serve(connections: Sequence[Connection], *, group: Group, report: Report) -> None:
    """Call in a rank the functions that arrive on its connection."""
    while (asked := connections[group.rank].recv()) is not None:
        function, arguments = asked
        try:
            answer = function(group, *arguments)
        except Exception:
            answer = AssertionError(traceback.format_exc())
        connections[group.rank].send(answer)


class Pair:
    """Two ranks on the CPU."""

    def __init__(self) -> None:
        pipes = [torch.multiprocessing.get_context("spawn").Pipe() for _ in range(2)]
        self.connections = [here for here, _ in pipes]
        job = partial(serve, [there for _, there in pipes])
        self.thread = threading.Thread(target=run_ranks, args=(job, 2, "cpu", lambda: None), daemon=True)
        self.thread.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function of the group and of these arguments in both ranks; return their answers."""
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
        """End both ranks, and wait for them."""
        for connection in self.connections:
            connection.send(None)
        self.thread.join()


class Rows(list[tuple[Tensor, Tensor]]):
    """A rank's rows of some minibatches, always in this order."""

    def __init__(self, group: Group, examples: int, batch_size: int, seed: int = 0) -> None:
        self.examples = examples
        x, y = separable(examples, seed)
        for start in range(0, examples, batch_size):
            own = slice(*share(start, min(start + batch_size, examples), group.rank, group.size))
            self.append((x[own].double(), y[own]))

    def streaming(self, stream: Callable[[], Generator]) -> Self:
        """Stay as they are."""
        return self

    def divided(self, part: int, parts: int) -> Self:
        """Stay as they are."""
        return self


def make(group: Group, maker: Callable[..., Method], recipe: Recipe, net: str, hyperparameters: Any) -> Method:
    """Build a method in float64."""

    def draw(**options: Any) -> nn.Module:
        return synchronize(NETS[net](**options), group)

    return maker(MakeNet(draw, 0), DividedRecipe.of(recipe, group), **hyperparameters).double()


def train(
    group: Group, maker: Callable[..., Method], recipe: Recipe, net: str, hyperparameters: Any
) -> tuple[Tensors, list[float], Any]:
    """Train and prepare a method in float64 on minibatches of 9 and a last one of 7; give state, losses and cost."""
    method = make(group, maker, recipe, net, hyperparameters)
    counter = Counter()
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
        method.prepare(Rows(group, 61, 9, seed=97))
    method.eval()
    state = {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    with torch.no_grad():
        state["predictions"] = method.predict(separable(12, seed=96)[0].double())
    cost = counter.cost
    return state, losses, (cost.forward_examples, cost.backward_examples, cost.optimizer_steps)


def normalize(group: Group, layer: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> list[Any]:
    """Run a layer on a rank's rows of minibatches (x, dy) in training mode; give y, gradients and buffers."""
    layer = synchronize(deepcopy(layer), group)
    found: list[Any] = []
    group.joint = group.size > 1
    for x, dy in batches:
        own = slice(*share(0, len(x), group.rank, group.size))
        mine = x[own].clone().requires_grad_()
        y = layer(mine)
        parameters = list(layer.parameters())
        by_x, *others = torch.autograd.grad(y, [mine, *parameters], dy[own])
        if group.size > 1 and others:
            others = [gradient.contiguous() * group.size for gradient in others]
            group.average(others)  # the mean over ranks of a gradient weighted by their number: the sum
        found.append((y.detach(), by_x, others, [buffer.clone() for buffer in layer.buffers()]))
    group.joint = False
    return found


def draws(group: Group, layer: nn.Module, x: Tensor, joined: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run a layer that draws numbers, from a seeded generator; give outputs, gradients by x, and the next number."""
    layer = synchronize(deepcopy(layer), group)
    own = slice(*share(0, len(x), group.rank, group.size))
    mine = x[own].clone().requires_grad_()
    torch.manual_seed(3)
    group.joint = joined and group.size > 1
    y = layer(mine)
    group.joint = False
    y.sum().backward()
    assert mine.grad is not None
    return y.detach(), mine.grad, torch.rand(1)


def average(group: Group, bucket: int) -> list[Tensor]:
    """Average tensors of several types and layouts that say which rank they are from."""
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


def diverge(group: Group, recipe: Recipe) -> str:
    """Train on rows of which one rank's hold something that is no number; give what it says."""
    from methods import SGD

    method = make(group, SGD, recipe, "tiny", {})
    optimizer = make_optimizer(method, recipe)
    group.synchronize_gradients(method, optimizer)
    rows = Rows(group, 61, 9)
    if group.rank == 1:
        rows[-1][0].fill_(torch.nan)
    try:
        with group.joint_training(Counter()):
            train_epoch(method, optimizer, lambda _: rows, 0, group.mean)
    except DivergenceError as error:
        return str(error)
    return "finished"


def refuse(group: Group, maker: Callable[..., Method], recipe: Recipe, hyperparameters: Any) -> str:
    """Let the optimizer of a method share gradients; give what the group says."""
    method = make(group, maker, recipe, "tiny", hyperparameters)
    try:
        group.synchronize_gradients(method, make_optimizer(method, recipe))
    except ValueError as error:
        return str(error)
    return "shared"


def execute_run(group: Group, run: Run, settings: Settings, needed: list[str]) -> None:
    """Execute a run, without the process that records failures."""
    folder = RunFolder(settings.runs, run.key)
    finish_in_process(run, settings, folder, needed, (), group=group, report=lambda: None)


def names(group: Group, run: Run, methods: Any, shape: Any) -> list[str]:
    """Name what is in the state of a run's method."""
    method = make_method(run, methods, shape, lambda net: synchronize(net, group))
    return list(method.state_dict())


def rank_0_first(group: Group, folder: Path) -> list[str]:
    """Let rank 0 write a file before the others; return the files that each rank found."""
    with group.rank_0_first():
        there = sorted(path.name for path in folder.iterdir())
        (folder / f"rank {group.rank}").touch()
    return there
