"""Train methods in tests, with the training loop of the harness."""

from copy import deepcopy

import torch

from harness.running.optimizers import make_optimizer
from harness.running.training_loop import train_epoch
from methods import MakeNet, Method
from methods.core.method import prepare_for_prediction
from tests.conftest import build, separable


def train_epochs(
    method: Method, optimizer, batches, first: int = 0, last: int | None = None, watched=None
) -> list[float]:
    """Train the epochs from `first` to before `last`, and return their losses.

    After each epoch a method that watches held-out data receives `watched`.
    """
    losses = []
    for epoch in range(first, method.epochs if last is None else last):
        losses.append(train_epoch(method, optimizer, rotated(batches), epoch)[0])
        if method.watches:
            method.watch(watched or held_out(batches[0][0].device), batches)
    return losses


def held_out(device):
    """Return two minibatches that no test trains on."""
    x, y = (t.to(device) for t in separable(30, seed=11))
    return list(zip(x.split(16), y.split(16), strict=True))


def rotated(batches):
    """Return a function of i that returns the same minibatches in order i, which begins with minibatch i."""
    return lambda order: batches[order:] + batches[:order]


def finish(method: Method, batches) -> Method:
    prepare_for_prediction(method, batches)
    return method


def trained(make, recipe, batches, seed: int = 0, net: str = "tiny") -> Method:
    method = build(make, recipe, seed, net)
    train_epochs(method, make_optimizer(method, recipe), batches)
    return finish(method, batches)


def trained_on(net, make, recipe, batches) -> Method:
    """Train and finish a method on networks of a class."""
    method = make(MakeNet(net, seed=0), recipe)
    train_epochs(method, make_optimizer(method, recipe), batches)
    return finish(method, batches)


def trajectory(method, recipe, batches):
    """Train, and return the network's state at the end of every epoch."""
    optimizer = make_optimizer(method, recipe)
    states = []
    for epoch in range(method.epochs):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
        states.append(deepcopy(method.net.state_dict()))
    return states


def assert_close(one, other, tolerance=1e-6):
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
