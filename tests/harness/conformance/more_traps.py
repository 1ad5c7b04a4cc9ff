"""More natural ways to write a method that give wrong numbers; see `traps`."""

MORE = {
    "state that begins with a phase": (
        """
    anchor = None
    def __init__(self, make_net, recipe, *, start: float = 0.5):
        super().__init__(make_net, recipe)
        self.start_epoch = int(start * self.epochs)
    def begin(self):
        self.anchor = [p.detach().clone() for p in self.net.parameters()]
    def loss(self, x, y, weights=None):
        loss = super().loss(x, y, weights)
        if self.anchor is not None:
            loss = loss + sum((p - a).square().sum() for p, a in zip(self.net.parameters(), self.anchor))
        return loss
""",
        "trap",
        "lenet5",
        False,
        "resume",
        "anchor",
    ),
    "a criterion of its own, which ranks do not weight": (
        """
    def loss(self, x, y, weights=None):
        return F.cross_entropy(self(x, weights), y)
""",
        "trap",
        "lenet5",
        True,
        "ranks",
        "two ranks with a part",
    ),
    "members by vmap": (
        """
    def __init__(self, make_net, recipe, *, K: int = 4):
        super().__init__(make_net, recipe)
        self.K = K
        nets = [self.net] + [make_net() for _ in range(K - 1)]
        params, buffers = torch.func.stack_module_state(nets)
        self.names = list(params)
        self.stacked = nn.ParameterList(params[n].detach().clone() for n in self.names)
        self.bnames = list(buffers)
        for i, n in enumerate(self.bnames):
            self.register_buffer(f"b{i}", buffers[n].clone())
        self.net.requires_grad_(False)
    def param_groups(self):
        return [self.group([(n, p) for n, p in self.named_parameters() if p.requires_grad], self.recipe.weight_decay)]
    def all_logits(self, x):
        params = dict(zip(self.names, self.stacked))
        buffers = {n: getattr(self, f"b{i}") for i, n in enumerate(self.bnames)}
        return torch.vmap(lambda p, b: torch.func.functional_call(self.net, {**p, **b}, (x,)))(params, buffers)
    def update(self, batches, optimizer):
        (x, y), = batches
        optimizer.zero_grad()
        loss = sum(self.recipe.criterion(l, y) for l in self.all_logits(x))
        loss.backward(); optimizer.step()
        return loss.detach() / self.K
    def predict(self, x):
        return self.all_logits(x)
    def members(self):
        params = dict(zip(self.names, self.stacked))
        buffers = {n: getattr(self, f"b{i}") for i, n in enumerate(self.bnames)}
        return [{n: v[k] for n, v in {**params, **buffers}.items()} for k in range(self.K)]
""",
        "trap",
        "wrn-10-1",
        False,
        "costs",
        "4 times the operations",
    ),
    "many backward passes of one forward pass": (
        """
    def update(self, batches, optimizer):
        (x, y), = batches
        optimizer.zero_grad()
        logits = self(x)
        fisher = [torch.zeros_like(p) for p in self.net.parameters()]
        for c in range(logits.shape[1]):
            gradients = torch.autograd.grad(logits[:, c].sum(), list(self.net.parameters()), retain_graph=True)
            for f, g in zip(fisher, gradients):
                f += g.square()
        loss = self.recipe.criterion(logits, y)
        loss.backward()
        for p, f in zip(self.net.parameters(), fisher):
            p.grad /= (1 + f)
        optimizer.step()
        return loss.detach()
""",
        "trap",
        "wrn-10-1",
        False,
        "costs",
        "times the operations",
    ),
    "a counter of the class": (
        """
    steps = 0
    def update(self, batches, optimizer):
        Trap.steps += 1
        if Trap.steps > 100000:
            self.net.requires_grad_(False)
        return super().update(batches, optimizer)
""",
        "trap",
        "lenet5",
        False,
        "resume",
        "Trap.steps",
    ),
    "a counter of itertools": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.steps = itertools.count()
    def update(self, batches, optimizer):
        if next(self.steps) > 1000:
            self.net.requires_grad_(False)
        return super().update(batches, optimizer)
""",
        "trap",
        "lenet5",
        False,
        "resume",
        "count(",
    ),
    "a counter in an object that is called": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.warm = Warm()
    def loss(self, x, y, weights=None):
        return self.warm() * super().loss(x, y, weights)
class Warm:
    def __init__(self): self.t = 0
    def __call__(self):
        self.t += 1
        return 1.0 if self.t < 1000 else 0.1
""",
        "trap",
        "lenet5",
        False,
        "resume",
        "'Warm'",
    ),
    "an epoch that is never set": (
        """
    def begin_epoch(self, epoch):
        self.noise = self.generator("noise")

    def loss(self, x, y, weights=None):
        return super().loss(x + 0.1 * torch.randn(x.shape, generator=self.noise), y, weights)
""",
        "trap",
        "lenet5",
        False,
        "hooks",
        "does not set the epoch",
    ),
    "probabilities for logits": (
        """
    def predict_with(self, x, weights=None):
        return super().predict_with(x, weights).softmax(-1)
""",
        "trap",
        "lenet5",
        False,
        "predict",
        "returns probabilities",
    ),
    "heads of which one is trained": (
        """
    def __init__(self, make_net, recipe, *, H: int = 3):
        self.H, self.C = H, make_net.data.classes
        super().__init__(make_net.replace(classes=H * self.C), recipe)
    def predict_with(self, x, weights=None):
        return self(x, weights).unflatten(1, (self.H, self.C)).transpose(0, 1)
""",
        "trap",
        "lenet5",
        False,
        "loss",
        "`criterion` gets logits of shape (B, 30) for 10 classes",
    ),
    "a decorated hook that is not passed on": (
        """
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)

    @torch.no_grad()
    def end_epoch(self, epoch):
        for p in self.inner.net.parameters():
            p.mul_(0.999)

METHODS = {"trap": Trap}
""",
        "trap",
        "lenet5",
        False,
        "hooks",
        "Trap.end_epoch never calls",
    ),
    "a trunk of the method inside that it does not train": (
        """
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)

        self.start_epoch = 4
    sharing = Sharing(lambda method: Trunk(method.inner, method.start_epoch))
    def update(self, batches, optimizer):
        return self.inner.update([(x + 0.5, y) for x, y in batches], optimizer)

METHODS = {"trap": Trap}
""",
        "trap",
        "lenet5",
        False,
        "sharing",
        "forked from sgd after 4 epochs",
    ),
    "a network of its own late in training": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.start_epoch = 3
        self.aux = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1))
    def loss(self, x, y, weights=None):
        extra = self.aux(x).square().mean() if self.begun else 0.0
        return super().loss(x, y, weights) + extra
""",
        "trap",
        "wrn-10-1",
        False,
        "costs",
        "`update` does",
    ),
    "work of its own in preparation": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("kernel", torch.randn(64, 1, 3, 3)); self.register_buffer("mix", torch.randn(64, 64, 3, 3))
        self.register_buffer("s", torch.zeros(()))
    def prepare(self, batches):
        super().prepare(batches)
        for x, _ in batches:
            self.s += F.conv2d(F.conv2d(x, self.kernel), self.mix).mean()
""",
        "trap",
        "wrn-10-1",
        False,
        "costs",
        "`prepare` does work",
    ),
    "layers of the network called one by one": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("s", torch.zeros(()))
    def end_epoch(self, epoch):
        with torch.no_grad():
            for _ in range(20):
                self.s += self.net.blocks(self.net.conv(torch.ones(64, 1, 8, 8))).mean()
""",
        "trap",
        "wrn-10-1",
        False,
        "costs",
        "`end_epoch` does work",
    ),
    "averages with the statistics of the last state": (
        """
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)

        self.average = self.copy_inner()
        self.register_buffer("count", torch.zeros(()))
    @torch.no_grad()
    def end_epoch(self, epoch):
        super().end_epoch(epoch)
        if epoch >= 2:
            self.count += 1
            self.move_weights_towards_inner(self.average, 1 / float(self.count))
            self.copy_the_rest(self.average)
    def predictors(self):
        return [self.average if self.epoch >= 2 else self.inner]

METHODS = {"trap": Trap}
""",
        "trap",
        "wrn-10-1",
        False,
        "training",
        "copy_inner(stale=True)",
    ),
    "watching that is not passed on": (
        """
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)

    watches = "validation"
    def watch(self, held_out, training):
        pass

METHODS = {"trap": Trap}
""",
        "trap(early_stopping)",
        "wrn-10-1",
        False,
        "hooks",
        "Trap.watch never calls",
    ),
    "preparation that divided data change": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("mean", torch.zeros(10))
    about = About("x", "y", passes="1")
    def prepare(self, batches):
        super().prepare(batches)
        n = 0
        for x, _ in batches:
            self.mean += self(x).sum(0); n += len(x)
        self.mean /= n
    def predict_with(self, x, weights=None):
        return super().predict_with(x, weights) - self.mean
""",
        "trap",
        "lenet5",
        True,
        "ranks",
        "`prepare` computes mean",
    ),
    "one of three states": (
        """
    epochs = 0
    def __init__(self, make_net, recipe, *, K: int = 3):
        super().__init__(make_net, recipe)
        self.nets = nn.ModuleList([self.net] + [make_net() for _ in range(K - 1)])
    def param_groups(self): return []
    def needs(self):
        return [Need(seed=3 * self.seed + i) for i in range(len(self.nets))]
    def receive(self, states):
        for i, state in enumerate(states):
            self.load_state_dict(state, strict=False)
    def members(self):
        return [{**dict(n.named_parameters()), **dict(n.named_buffers())} for n in self.nets]
""",
        "trap",
        "lenet5",
        False,
        "receive",
        "takes nothing of the state of Need(seed=",
    ),
    "a rate that asks whether the phase has begun": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.start_epoch = 3
    def lr(self, epoch):
        return self.recipe.learning_rate(epoch) * (0.1 if self.begun else 1.0)
""",
        "trap",
        "lenet5",
        False,
        "lr",
        "another rate",
    ),
}
"""Each with the body of the class, with the expression, the network and whether the class is divisible."""
