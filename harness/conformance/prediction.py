"""Checks of preparation and prediction."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from data import dataset_shape
from harness.conformance.finding import Finding
from harness.conformance.small_run import DATASET, Case, SmallRun, first_change, same
from harness.evaluation.landscape import differs_from_prediction
from harness.parsing.method_expression import MethodSpec
from methods import Method
from methods.core.weight_averaging import AVERAGE_REMEDY, WeightAveraging, depends_on
from methods.core.wrapper import Wrapper, methods_within

CLASSES = dataset_shape(DATASET.name).classes


def check_prediction(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check shape and values of the prediction, and that it changes nothing."""
    x, _ = whole.test_batch()
    before = whole.saved()[0]
    logits = whole.predict(x)
    if logits.dim() != 3 or logits.shape[1:] != (len(x), CLASSES):
        yield Finding(
            "predict",
            f"its shape is {tuple(logits.shape)} for {len(x)} images of {CLASSES} classes",
            "return the members' logits as (K, B, C), also if K is 1",
        )
        return
    if not logits.isfinite().all():
        yield Finding("predict", "some logits are not finite", "look for divisions by zero and logarithms of zero")
        return
    if (logits >= 0).all() and torch.allclose(logits.sum(-1), torch.ones(())):
        yield Finding(
            "predict",
            "it returns probabilities, of which the harness takes the softmax once more",
            "return logits, or the probabilities' logarithms",
        )
    if not torch.equal(logits, whole.predict(x)):
        yield Finding("predict", "a second prediction differs", "draw from `generator(purpose)`, and keep no state")
    if name := first_change(before, whole.method.state_dict()):
        yield Finding("predict", f"it changes {name}", "write buffers in `prepare` or in training only")
    yield from check_rows(whole, x, logits)
    fresh = case.start()
    fresh.method.load_state_dict(before)
    fresh.method.eval()
    if not torch.equal(logits, fresh.predict(x)):
        yield Finding(
            "prepare",
            "the finished state, loaded into a new instance, predicts otherwise",
            "keep what `prepare` and training find in buffers",
        )


def check_rows(whole: SmallRun, x: Tensor, logits: Tensor) -> Iterator[Finding]:
    """Check that the prediction of an example does not depend on the other examples of the batch."""
    others = torch.cat([x[:7], x[7:].flip(-1) * 2 - 1])
    if not torch.allclose(whole.predict(others)[:, :7], logits[:, :7], rtol=1e-4, atol=1e-5):
        yield Finding(
            "predict",
            "the prediction of an example depends on the other examples of its batch",
            "leave the network in evaluation mode, and compare or centre no examples of a batch",
        )


def check_members(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that members are given by the network's names, and what landscapes and averages would see."""
    method, (x, _) = whole.method, whole.test_batch()
    plain = replace(case, spec=MethodSpec(name="sgd")).start().method
    names = {name for each in (plain, method) for name in each.own_weights()}
    with torch.no_grad(), whole.seeded("predict"):
        members = list(method.members())
        for member in members:
            if unknown := sorted(member.keys() - names):
                yield Finding("members", f"{unknown[:3]} are no names of the network", "use `own_weights()`'s names")
                return
            untouched = [name for name in member if name.endswith("running_mean") and not member[name].any()]
            if untouched and method.epochs:
                yield Finding(
                    "members",
                    f"after training, a member still has the running statistics it began with ({untouched[0]})",
                    "copy them from the network, or call `reestimate(self, batches, weights)` in `prepare`",
                )
                return
        generator = torch.Generator().manual_seed(0)
        moved = [{name: w + noise_like(w, generator) for name, w in member.items()} for member in members[:1]]
        pairs = zip(members, moved, strict=False)
        ignored = any(torch.equal(method.predict_with(x, one), method.predict_with(x, other)) for one, other in pairs)
    if ignored:
        yield Finding(
            "members",
            "`predict_with` gives the same for other `weights`: every member and every point of a landscape is the "
            "network itself",
            "pass them on, as in self(x, weights)",
        )
        return
    with torch.no_grad(), whole.seeded("predict"):
        drawn = not same(method.predict(x), method.predict(x)) and same(whole.predict(x), whole.predict(x))
        reason = differs_from_prediction(method, [whole.test_batch()])
    if drawn:
        yield Finding(
            "members",
            "its prediction draws random numbers: the run predicts with one draw, and landscapes are left out",
            "nothing, if that is the method, as in MC dropout; otherwise leave its layers in evaluation mode",
            "note",
        )
    elif reason:
        yield Finding(
            "members",
            f"{reason}: landscapes are left out",
            "override `predict_with` instead of `predict` if that is possible",
            "note",
        )
    with torch.no_grad(), whole.seeded("predict"):
        collects = any(part.collected for part in methods_within(method))  # SWA and SWAG refuse it
        averaged = [] if collects or not method.epochs else method.weights_to_average()
        if averaged and not depends_on(method, averaged, x):
            yield Finding(
                "average",
                "its prediction does not depend on its parameters, so that it cannot be averaged by SWA and SWAG",
                AVERAGE_REMEDY,
                "note",
            )


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise of a tenth of a tensor's size; of a tensor of integers, zeros."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    return torch.rand(tensor.shape, generator=generator).to(tensor) * 0.1 * tensor.abs().mean()


def check_preparation(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check what `prepare` writes, and whether it counts on training mode."""
    yield from check_stale_statistics(whole)
    small, saved = case.start(), whole.snapshots[-1].saved
    small.restore(saved, whole.epoch)
    parameters = {name: p.detach().clone() for name, p in small.method.named_parameters()}
    small.prepare()
    moved = [name for name, p in small.method.named_parameters() if not torch.equal(p, parameters[name])]
    if moved:
        yield Finding("prepare", f"it changes the parameter {moved[0]}", "write buffers only, which `predict` reads")
        return
    other = case.start()
    other.restore(saved, small.epoch)
    other.method.train()
    with other.seeded("prepare"), torch.no_grad():
        other.method.prepare(other.preparation_data())
    other.method.eval()
    x, _ = small.test_batch()
    if not state_moved(saved[0], small.method) and state_moved(saved[0], other.method):
        yield Finding(
            "prepare",
            "it changes nothing in evaluation mode, in which it is called, and something in training mode",
            "to re-estimate BatchNorm's statistics call `reestimate(self, batches, weights)`",
            "warning",
        )
    elif not close(small.predict(x), other.predict(x)):
        yield Finding(
            "prepare",
            "run in training mode, it would move running statistics and predict otherwise; it is called in evaluation "
            "mode, where it does not",
            "nothing, unless it counts on training mode",
            "note",
        )


def check_stale_statistics(whole: SmallRun) -> Iterator[Finding]:
    """Check that the running statistics of averaged weights are estimated again."""
    before, after = whole.snapshots[-1].saved[0], whole.method.state_dict()
    predicting = {id(part) for part in parts_that_predict(whole.method)}
    for name, part in whole.method.named_modules():
        if id(part) not in predicting or not isinstance(part, WeightAveraging):
            continue
        if not part.has_enough_states or part.statistics:
            continue
        place = f"{name}.average." if name else "average."
        means = [key for key in after if key.startswith(place) and "running_mean" in key]
        if means and all(same(after[key], before[key]) for key in means):
            yield Finding(
                "prepare",
                f"{type(part.inner).__name__}, averaged by {type(part).__name__}, leaves the running statistics as "
                "they are, which belong to other weights than the averages",
                "begin with super().prepare(batches), or reestimate(self, batches, weights) if self.statistics_stale",
            )


def parts_that_predict(method: Method) -> Iterator[Method]:
    """Yield a method, and those inside it by which it predicts."""
    yield method
    for part in method.predictors() if isinstance(method, Wrapper) else ():
        if part is not method:
            yield from parts_that_predict(part)


def state_moved(before: dict[str, object], method: Method) -> bool:
    """Return whether a method's state is no longer nearly what it was."""
    now = method.state_dict()
    tensors = [(now[name], was) for name, was in before.items() if isinstance(was, Tensor)]
    return not all(torch.allclose(value, was, rtol=1e-4, atol=1e-5) for value, was in tensors)


def close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape and nearly the same values."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4)
