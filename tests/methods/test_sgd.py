"""Plain training against the loop everyone writes."""

from copy import deepcopy

import torch
from torch import nn

from harness.running.optimizers import make_optimizer
from methods import SGD, Recipe
from tests.conftest import build
from tests.methods.training import assert_close, train_epochs


def test_sgd_is_the_loop_everyone_writes(recipe, batches):
    method = build(SGD, recipe)
    net = deepcopy(method.net)
    train_epochs(method, make_optimizer(method, recipe), batches)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    net.train()
    for _ in range(recipe.epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert_close(method.net.state_dict(), net.state_dict())


def test_an_update_of_several_minibatches_is_one_of_their_mean(recipe, batches):
    """What a method gets that only asks for more minibatches: gradient accumulation."""
    batches = batches[:2]
    one, other = (build(SGD, recipe) for _ in range(2))
    one.batches_per_update = lambda: 2
    train_epochs(one, make_optimizer(one, recipe), batches, last=1)
    optimizer = make_optimizer(other, recipe)
    other.train()
    for x, y in batches:
        (nn.functional.cross_entropy(other.net(x), y) / 2).backward()
    optimizer.step()
    assert_close(one.net.state_dict(), other.net.state_dict())


def test_each_stage_begins_with_a_new_optimizer(batches):
    """Training on from a finished run: its weights, no momentum, and a rate of its own."""
    stages = [{"epochs": 2}, {"epochs": 2, "ratio": 0.1}]
    recipe = Recipe(epochs=4, lr=0.05, weight_decay=1e-3, schedule={"kind": "stages", "stages": stages})
    method = build(SGD, recipe)
    net = deepcopy(method.net)
    train_epochs(method, make_optimizer(method, recipe), batches)
    net.train()
    for lr in (0.05, 0.005):
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3)
        for _ in range(2):
            for x, y in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
    assert_close(method.net.state_dict(), net.state_dict())
