"""Train methods in tests, by the harness's own loop."""

from copy import deepcopy

import torch

from harness.running.optimizers import make_optimizer
from harness.running.training_loop import train_epoch
from methods import Method
from tests.conftest import build, separable


def run(method: Method, optimizer, batches, first: int = 0, last: int | None = None, shown=None) -> list[float]:
    """Train some epochs with the harness's own loop, held-out data shown after each; the losses by epoch."""
    losses = []
    for epoch in range(first, method.epochs if last is None else last):
        losses.append(train_epoch(method, optimizer, rotated(batches), epoch)[0])
        if method.watches:
            method.watch(shown or held_out(batches[0][0].device), batches)
    return losses


def held_out(device):
    """Two minibatches that are never trained on."""
    x, y = (t.to(device) for t in separable(30, seed=11))
    return list(zip(x.split(16), y.split(16), strict=True))


def rotated(batches):
    """The same minibatches in other orders: order i begins with minibatch i."""
    return lambda order: batches[order:] + batches[:order]


def finish(method: Method, batches) -> Method:
    method.prepare(batches)
    return method.eval()


def trained(make, recipe, batches, seed: int = 0, net: str = "tiny") -> Method:
    method = build(make, recipe, seed, net)
    run(method, make_optimizer(method, recipe), batches)
    return finish(method, batches)


def trajectory(method, recipe, batches):
    """Train, keeping the network's state at the end of every epoch."""
    optimizer = make_optimizer(method, recipe)
    states = []
    for epoch in range(method.epochs):
        run(method, optimizer, batches, first=epoch, last=epoch + 1)
        states.append(deepcopy(method.net.state_dict()))
    return states


def assert_close(one, other, tolerance=1e-6):
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
