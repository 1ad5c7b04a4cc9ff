"""Natural ways to write a method that give wrong numbers: a class body each, the check that finds it, and its words."""

HEAD = """
import copy, itertools, logging, math, random, time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from optuna.distributions import FloatDistribution
from methods import *

class Trap(Method):
    '''A trap.'''
    divisible = {divisible}
"""

NOISE = """
    def loss(self, x, y, weights=None):
        return super().loss(x + 0.1 * {noise}, y, weights)
"""

TRAPS = {
    "a counter of steps": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.steps = 0
        for i, p in enumerate(self.net.parameters()):
            self.register_buffer(f"slow_{i}", p.detach().clone())
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        self.steps += 1
        if self.steps % 7 == 0:
            with torch.no_grad():
                for i, p in enumerate(self.net.parameters()):
                    p.copy_(self.get_buffer(f"slow_{i}").lerp_(p, 0.5))
        return loss
""",
        "resume",
        "steps",
    ),
    "a counter that matters late": (
        """
    steps = 0
    def update(self, batches, optimizer):
        self.steps += 1
        if self.steps > 1000:
            self.net.requires_grad_(False)
        return super().update(batches, optimizer)
""",
        "resume",
        "steps",
    ),
    "a list of tensors": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.slow = [p.detach().clone() for p in self.net.parameters()]
    def end_epoch(self, epoch):
        with torch.no_grad():
            for slow, p in zip(self.slow, self.net.parameters()):
                p.copy_(slow.lerp_(p, 0.5))
""",
        "resume",
        "resumed after epoch",
    ),
    "a generator for all epochs": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.noise = self.generator("noise")
"""
        + NOISE.format(noise="torch.randn(x.shape, generator=self.noise)"),
        "resume",
        "noise",
    ),
    "an unseeded generator of NumPy": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.noise = np.random.default_rng()
"""
        + NOISE.format(noise="float(self.noise.normal())"),
        "seed",
        "two trainings with one seed differ",
    ),
    "the clock": (NOISE.format(noise="(time.time_ns() % 1000 / 1000)"), "seed", "two trainings with one seed differ"),
    "the hash of a string, which decides the order of sets": (
        NOISE.format(noise="(hash('alpha') % 1000 / 1000)"),
        "process",
        "another process gets other bits",
    ),
    "a network of its own beside": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.big = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 10))
    def forward(self, x, weights=None):
        return super().forward(x, weights) + self.big(x)
""",
        "costs",
        "`predict` does",
    ),
    "work of its own in training": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.kernel = nn.Parameter(0.1 * torch.randn(64, 1, 3, 3))
        self.mixing = nn.Parameter(0.1 * torch.randn(64, 64, 3, 3))
    def loss(self, x, y, weights=None):
        return super().loss(x, y, weights) + F.conv2d(F.conv2d(x, self.kernel), self.mixing).square().mean()
""",
        "costs",
        "`update` does",
    ),
    "a prediction by layers that are called one by one": (
        """
    def predict(self, x):
        for layer in self.net.children():
            x = layer(x.mean((2, 3)) if isinstance(layer, nn.Linear) else x)
        return x[None]
""",
        "costs",
        "`predict` does work, and no pass of it is counted",
    ),
    "two passes that it does not declare": (
        """
    def loss(self, x, y, weights=None):
        return super().loss(x, y, weights) + super().loss(x.flip(-1), y, weights)
""",
        "costs",
        "about declares training = 1, and 2 is counted",
    ),
    "noise of each rank": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.noise = self.generator("noise")
"""
        + NOISE.format(noise="torch.randn(x.shape, generator=self.noise).to(x)"),
        "ranks",
        "two ranks with a part of each minibatch",
    ),
    "examples that are compared": (
        """
    def loss(self, x, y, weights=None):
        logits = self(x, weights)
        return self.recipe.criterion(logits, y) + logits.var(0).mean()
""",
        "ranks",
        "two ranks with a part of each minibatch",
    ),
    "a fitted number": (
        """
    T = 1.0
    def prepare(self, batches):
        super().prepare(batches)
        self.T = float(sum(self(x).std() for x, _ in batches))
    def predict_with(self, x, weights=None):
        return super().predict_with(x, weights) / self.T
""",
        "prepare",
        "loaded into a new instance, predicts otherwise",
    ),
    "prediction in training mode": (
        """
    def predict(self, x):
        self.train()
        try:
            return super().predict(x)
        finally:
            self.eval()
""",
        "predict",
        "depends on the other examples of its batch",
    ),
    "logits of one member": (
        """
    def predict(self, x):
        return self(x)
""",
        "predict",
        "its shape is",
    ),
    "a prediction that writes": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("asked", torch.zeros(()))
    def predict(self, x):
        self.asked += 1
        return super().predict(x) / self.asked
""",
        "predict",
        "a second prediction differs",
    ),
    "parameters made late": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 4:
            self.extra = nn.Parameter(torch.zeros(3))
""",
        "structure",
        "extra",
    ),
    "modules in a list": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.others = [make_net(), make_net()]
""",
        "state",
        "others keeps parameters in a plain container",
    ),
    "a default outside of the range": (
        """
    space = {"alpha": FloatDistribution(0.5, 1.0)}
    def __init__(self, make_net, recipe, *, alpha: float = 0.1):
        super().__init__(make_net, recipe)
""",
        "space",
        "alpha=0.1",
    ),
    "a range of nothing": (
        """
    space = {"beta": FloatDistribution(0.5, 1.0)}
""",
        "space",
        "'beta' is no hyperparameter",
    ),
    "a preparation that trains": (
        """
    def prepare(self, batches):
        with torch.no_grad():
            for p in self.net.parameters():
                p.mul_(0.5)
""",
        "prepare",
        "changes the parameter",
    ),
    "a rate that counts": (
        """
    asked = 0
    def lr(self, epoch):
        self.asked += 1
        return 0.02 / self.asked
""",
        "lr",
        "another rate",
    ),
    "a step of its own that ranks do not see": (
        """
    def update(self, batches, optimizer):
        loss = self.loss(*batches[0])
        loss.backward()
        with torch.no_grad():
            for p in self.net.parameters():
                p -= 0.01 * p.grad
                p.grad = None
        return loss.detach()
""",
        "ranks",
        "two ranks with a part of each minibatch",
    ),
    "a loss after the step": (
        """
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        with torch.no_grad():
            after = self.loss(*batches[0])
            for p in self.net.parameters():
                p.mul_(1 - 0.01 * after)
        return loss
""",
        "ranks",
        "two ranks with a part of each minibatch",
    ),
    "a trunk that it does not train": (
        """
    sharing = Sharing(lambda method: Trunk(PLAIN_TRUNK, 3))
    def loss(self, x, y, weights=None):
        return 2 * super().loss(x, y, weights)
""",
        "sharing",
        "forked from sgd after 3 epochs",
    ),
    "a prediction with weights that is never asked for": (
        """
    pass
class Trap(BatchEnsemble):
    '''A trap.'''
    def predict_with(self, x, weights=None):
        return super().predict_with(x, weights) / 2
METHODS = {"trap": Trap}
""",
        "hooks",
        "overrides `predict_with`, and its `predict` never calls it",
    ),
    "statistics that nobody refreshes": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.slow = NamedBuffers(self.own_weights().items())
    @torch.no_grad()
    def end_epoch(self, epoch):
        for name, p in self.net.named_parameters():
            self.slow.named()[name].lerp_(p, 0.5)
    def members(self):
        return [self.slow.named()]
""",
        "members",
        "still has the running statistics it began with",
    ),
    "a wrapper that ends no epoch of the inner method": (
        """
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)
    def end_epoch(self, epoch):
        pass
METHODS = {"trap": Trap}
""",
        "hooks",
        "never calls `end_epoch` of the method inside",
    ),
    "a receive that takes nothing": (
        """
    def needs(self):
        return [Need(seed=5)]
    def receive(self, states):
        self.net.load_state_dict(states[0], strict=False)
""",
        "receive",
        "takes nothing of the state of Need(seed=5",
    ),
    "a counter in an object": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.state = type("State", (), {})()
        self.state.steps = 0
    def update(self, batches, optimizer):
        self.state.steps += 1
        return super().update(batches, optimizer)
""",
        "resume",
        "the attribute state",
    ),
    "parameters of no group": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.scale = torch.ones((), requires_grad=True)
    def forward(self, x, weights=None):
        return self.scale * super().forward(x, weights)
    def param_groups(self):
        return [self.group([("scale", self.scale), *self.net.named_parameters()], 0.0)]
""",
        "param_groups",
        "are not parameters of the method",
    ),
}

COMPOSED = {
    "statistics of other weights": (
        """
    def prepare(self, batches):
        pass
""",
        "swa(trap)",
        "prepare",
        "averaged by SWA, leaves the running statistics as they are, which",
    ),
    "a prediction of the network itself": (
        """
    def predict_with(self, x, weights=None):
        return self(x)[None]
""",
        "trap",
        "members",
        "gives the same for other `weights`",
    ),
    "copies that lack what watching changes": (
        """
    pass
class Trap(Wrapper):
    '''Predicts with the states of the last two epochs.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)
        self.copies = nn.ModuleList(self.copy_inner() for _ in range(2))
    def end_epoch(self, epoch):
        super().end_epoch(epoch)
        if epoch >= self.epochs - 2:
            self.copies[epoch - self.epochs + 2].load_state_dict(self.inner.state_dict())
    def predictors(self):
        return list(self.copies) if self.epoch == self.epochs - 1 else [self.inner]
METHODS = {"trap": Trap}
""",
        "trap(early_stopping)",
        "watch",
        "copies the method inside in `end_epoch`",
    ),
    "a hyperparameter of training that is declared to be of prediction": (
        """
    sharing = Sharing(prediction=frozenset({"T"}))
    def __init__(self, make_net, recipe, *, T: float = 2.0):
        super().__init__(make_net, recipe)
        self.T = T
    def forward(self, x, weights=None):
        return super().forward(x, weights) / self.T
""",
        "trap",
        "sharing",
        "but with T=3.0 training ends with another",
    ),
    "a buffer of training that is declared to be of preparation": (
        """
    sharing = Sharing(prepared=("slow",))
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.slow = NamedBuffers(self.own_weights().items())
    @torch.no_grad()
    def end_epoch(self, epoch):
        for name, value in self.own_weights().items():
            self.slow.named()[name].copy_(value)
    def members(self):
        return [self.slow.named()]
""",
        "trap",
        "sharing",
        "training writes to slow.",
    ),
    "members that run as one batch, and whose own loss is not asked": (
        """
    pass
class Trap(LatePhaseBatchNorm):
    '''Members whose own weights count more.'''
    fusible = True
    def __init__(self, make_net, recipe, *, K: int = 2, start: float = 0.5):
        super().__init__(make_net, recipe, K=K, start=start)
    def late_weights(self, k):
        return {name: 1.1 * value for name, value in super().late_weights(k).items()}
METHODS = {"trap": Trap}
""",
        "trap",
        "fusing",
        "members that run as one batch end an epoch with another",
    ),
    "steps in a dict": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.slow = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self.seen = {}
    @torch.no_grad()
    def end_epoch(self, epoch):
        for name, p in self.net.named_parameters():
            self.slow[name].lerp_(p, 0.5)
            self.seen[epoch] = True
""",
        "trap",
        "resume",
        "is tensor (",
    ),
}
"""Traps of methods inside of others, or around them, and of declarations."""
