"""Networks that do not use every layer in every minibatch: whose gradients a cycle has, wherever an epoch cuts it."""

import torch
from torch import nn

from harness.running.optimizers import make_optimizer
from methods import SGD, GradientAccumulation, MakeNet, Recipe
from tests.methods.training import train_epochs


class Skipping(nn.Module):
    """A network that uses its layer `a` for positive inputs only, and `c` never."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(1, 2) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(x) if x.sum() > 0 else self.b(x)


def test_a_carried_sum_is_stepped_on_where_the_rest_of_the_cycle_does_not_use_the_weight():
    """Only the first minibatch uses `a`, none uses `c`. The cycle is cut by the end of an epoch."""
    recipe = Recipe(epochs=2, lr=0.1, weight_decay=0.5)
    x, y = torch.ones(4, 1), torch.zeros(4, dtype=torch.long)
    ends = []
    for per_epoch in (2, 1):
        method = GradientAccumulation(MakeNet(Skipping, 0), recipe, K=2, start=0)
        optimizer = make_optimizer(method, recipe)
        assert method.leftover == "carry"
        minibatches = [(x, y), (-x, y)]
        for epoch in range(2 // per_epoch):
            train_epochs(method, optimizer, minibatches[epoch:][:per_epoch], first=epoch, last=epoch + 1)
        ends.append(dict(method.net.named_parameters()))
    whole, cut = ends
    plain = dict(SGD(MakeNet(Skipping, 0), recipe).net.named_parameters())
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not torch.equal(cut["a.weight"], plain["a.weight"])
    assert torch.equal(cut["c.weight"], plain["c.weight"]), "no weight decay of what is never used"


def test_a_checkpoint_that_does_not_name_what_is_carried_carries_all():
    """As before versions named it."""
    method = GradientAccumulation(MakeNet(Skipping, 0), Recipe(epochs=2), K=2, start=0)
    state = method.get_extra_state()
    del state["carrying"]
    method.set_extra_state(state)
    assert method.carrying == [], "at the beginning of a cycle there is nothing"
    method.set_extra_state(state | {"cycle_position": 1})
    assert method.carrying == list(method.carried.named()) != []
