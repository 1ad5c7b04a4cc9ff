"""Tests that evaluation scores every test example once, and agrees with direct computations."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from data import Augmentation, ImageTask, Split
from harness.costs.cost import Cost, CostCounter
from harness.evaluation import evaluate as evaluating
from harness.evaluation import metrics
from harness.evaluation.evaluate import evaluate, relative_change, weight_vectors
from methods import SGD, DeepEnsemble, LatePhaseBatchNorm, MakeNet, Method, Recipe

N, K, C = 53, 3, 4


class Fixed(SGD):
    """Predicts K logits read from the images, and counts which images it sees."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.seen = []
        table = torch.randn(256, K, C, generator=torch.Generator().manual_seed(0))
        self.table = 2 * table

    def predict(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        for _ in range(K):
            self.net(x)
        level = x[:, 0, 0, 0].round().long()
        self.seen.append(level)
        return self.table[level].permute(1, 0, 2)


def flat_images(levels):
    return torch.as_tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


def make_task(**changes):
    generator = torch.Generator().manual_seed(1)
    split = Split(flat_images(range(N)), torch.randint(C, (N,), generator=generator))
    values = {
        "name": "synthetic",
        "classes": C,
        "train": split,
        "validation": None,
        "test": split,
        # normalised images have the values 0 … 255
        "mean": (0.0,),
        "std": (1 / 255,),
        "augmentation": Augmentation(padding=1),
        "ood": {"high": lambda: flat_images(range(100, 140)), "same": lambda: flat_images(range(N))},
        "corruptions": (),
    }
    return ImageTask(**(values | changes))


def make_method(counter):
    def build():
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, C))
        net.register_forward_pre_hook(counter)
        return net

    return Fixed(MakeNet(build, 0), Recipe(epochs=1))


@pytest.mark.parametrize("batch", [1024, 10, 1])
def test_every_example_is_scored_once(monkeypatch, batch):
    monkeypatch.setattr(evaluating, "MAX_BATCH_SIZE", batch)
    counter = CostCounter()
    counter.cost = Cost(1, 2, 3, 4.0)
    method, task = make_method(counter), make_task()
    found = evaluate(method, task, counter)
    seen = torch.cat(method.seen[2:]).tolist()  # the first two calls count parameters and forward passes
    assert seen == [*range(N), *range(100, 140), *range(N)]
    logits = method.table[:N].permute(1, 0, 2).double()
    y = task.test.labels
    p = logits.softmax(-1).mean(0)
    torch.testing.assert_close(torch.from_numpy(found.predictions["probabilities"]), p.float())
    assert found.metrics["accuracy"] == pytest.approx(100 * (p.argmax(-1) == y).double().mean().item())
    assert found.metrics["nll"] == pytest.approx(-p[range(N), y].log().mean().item())
    assert found.metrics["brier"] == pytest.approx(metrics.brier(p.log(), y))
    averaged = logits.mean(0).log_softmax(-1)
    assert found.metrics["logit_average/nll"] == pytest.approx(-averaged[range(N), y].mean().item())
    assert found.metrics["logit_average/nll"] != pytest.approx(found.metrics["nll"])
    assert found.metrics["members"] == K
    single = [100 * (logits[k].argmax(-1) == y).double().mean().item() for k in range(K)]
    assert found.metrics["single/accuracy"] == pytest.approx(np.mean(single))
    nll = [-logits[k].log_softmax(-1)[range(N), y].mean().item() for k in range(K)]
    assert found.metrics["single/nll"] == pytest.approx(np.mean(nll))
    for k in range(1, K + 1):
        part = logits[:k]
        q = part.softmax(-1).mean(0)
        assert found.curves["nll"][k - 1] == pytest.approx(-q[range(N), y].log().mean().item())
        assert found.curves["accuracy"][k - 1] == pytest.approx(100 * (q.argmax(-1) == y).double().mean().item())
    assert found.curves["ece"][-1] == pytest.approx(found.metrics["ece"], rel=1e-12)  # summed in other orders
    assert found.metrics["diversity/kl"] == pytest.approx(metrics.diversity(logits)["kl"])
    assert found.forwards_per_example == K
    assert found.seconds_per_1000 > 0
    assert counter.cost == Cost(1, 2, 3, 4.0), "evaluation is not counted"
    assert not counter.counting
    assert not method.net[1].weight.requires_grad or method.net[1].weight.grad is None


def test_strange_images_are_the_positive_class():
    counter = CostCounter()
    method, task = make_method(counter), make_task()
    method.table[100:140] = 0.0  # no idea: the highest entropy
    found = evaluate(method, task, counter).metrics
    assert found["ood_auroc/high"] == 1.0
    assert found["ood_auroc/same"] == 0.5
    assert found["ood_auroc"] == 0.75
    method.table[100:140] = torch.tensor([90.0, 0, 0, 0])  # quite sure
    assert evaluate(method, task, counter).metrics["ood_auroc/high"] == 0.0


def test_auroc_of_entropies_against_sklearn():
    counter = CostCounter()
    method, task = make_method(counter), make_task()
    found = evaluate(method, task, counter).metrics
    p = method.table.double().softmax(-1).mean(1)
    entropy = -(p * p.log()).sum(-1)
    scores, outside = torch.cat([entropy[:N], entropy[100:140]]), [0] * N + [1] * 40
    assert found["ood_auroc/high"] == pytest.approx(roc_auc_score(outside, scores))


@pytest.mark.parametrize("official", [True, False])
def test_corruption_errors_are_averaged_over_severities_then_over_corruptions(official, monkeypatch):
    counter = CostCounter()
    task = make_task(ood={}, official=(lambda: iter(())) if official else None)

    def corrupted(self, batch_size):
        for start in (0, 20, 40):  # batch by batch
            images = self.test.images[start : start + 20]
            for severity in range(1, 6):
                yield "none", severity, start, images
                yield "shift", severity, start, images + severity

    monkeypatch.setattr(ImageTask, "corrupted", corrupted)
    method = make_method(counter)
    found = evaluate(method, task, counter).metrics
    p = method.table.softmax(-1).mean(1)
    y = task.test.labels
    errors = [100 * (p[s : N + s].argmax(-1) != y).double().mean().item() for s in range(6)]
    kind = "" if official else "generated/"
    assert found[f"{kind}corruption_error/none"] == pytest.approx(errors[0]) == pytest.approx(100 - found["accuracy"])
    assert found[f"{kind}corruption_error/shift"] == pytest.approx(np.mean(errors[1:]))
    assert found[f"{kind}corruption_error"] == pytest.approx((errors[0] + np.mean(errors[1:])) / 2)
    changes = [(errors[0] - e) / (100 - errors[0]) for e in (errors[0], errors[3])]
    assert found[f"{kind}relative_change/shift"] == pytest.approx(changes[1])
    assert found[f"{kind}relative_change"] == pytest.approx(np.mean(changes))
    assert not [name for name in found if name.startswith("generated/") == official and "corruption" in name]
    assert "ood_auroc" not in found


def test_without_ood_datasets_there_are_no_ood_metrics():
    counter = CostCounter()
    found = evaluate(make_method(counter), make_task(ood={}), counter).metrics
    assert not [name for name in found if name.startswith(("ood", "corruption"))]


def test_predictions_are_saved():
    counter = CostCounter()
    task = make_task()
    found = evaluate(make_method(counter), task, counter)
    file = BytesIO()
    found.save_predictions(file)
    file.seek(0)
    with np.load(file) as arrays:
        assert set(arrays) == {"probabilities", "labels"}
        assert (arrays["probabilities"].dtype, arrays["labels"].dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(arrays["labels"], task.test.labels.numpy())
        np.testing.assert_array_equal(arrays["probabilities"], found.predictions["probabilities"])
        np.testing.assert_allclose(arrays["probabilities"].sum(1), 1, rtol=1e-6)


class Normed(nn.Module):
    """A network with and without BatchNorm's weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2 * 16, C)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).flatten(1))


def test_weight_vectors_leave_batch_norm_out():
    method = LatePhaseBatchNorm(MakeNet(Normed, 0), Recipe(epochs=2), K=2, start=0, prediction="members")
    method.begin_epoch(0)
    with torch.no_grad():
        method.own_parts(1)[0].weight.fill_(9.0)  # BatchNorm of member 1
        method.own_parts(1)[1].weight.add_(1.0)  # its last layer
    vectors = weight_vectors(method)
    net = method.net
    parts = (net.conv.weight, net.conv.bias, net.head.weight, net.head.bias)
    expected = torch.cat([part.flatten() for part in parts])
    assert torch.equal(vectors[0], expected)
    assert torch.equal(vectors[1], torch.cat([expected[: 18 + 2], expected[20 : 20 + 32 * C] + 1, expected[-C:]]))


def test_weight_vectors_hold_weights_that_the_network_itself_does_not_have():
    class Generated(Method):
        """Computes its head's weights from an embedding and passes them to the network."""

        def __init__(self, make_net, recipe):
            super().__init__(make_net, recipe)
            del self.net.head.weight
            self.codes = torch.tensor([2.0, 3.0])

        def members(self):
            for code in self.codes:
                yield {"head.weight": torch.full((C, 32), float(code)), **self.own_weights()}

    vectors = weight_vectors(method := Generated(MakeNet(Normed, 0), Recipe(epochs=2)))
    net = method.net
    rest = torch.cat([p.detach().flatten() for p in (net.conv.weight, net.conv.bias, net.head.bias)])
    for vector, code in zip(vectors, (2.0, 3.0), strict=True):
        assert torch.equal(vector, torch.cat([torch.full((32 * C,), code), rest]))


def test_weight_distances_are_those_of_the_members():
    method = DeepEnsemble(MakeNet(Normed, 0), Recipe(epochs=2), K=2)
    counter = CostCounter()
    found = evaluate(method, make_task(), counter).metrics
    one, two = (
        torch.cat([p.flatten() for name, p in part.net.named_parameters() if "norm" not in name]).detach().numpy()
        for part in method.run_methods
    )
    assert found["diversity/l2"] == pytest.approx(np.linalg.norm(one - two), rel=1e-5)
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    assert found["diversity/cosine"] == pytest.approx(cosine, rel=1e-4)


def test_one_member_has_no_diversity():
    method = SGD(MakeNet(Normed, 0), Recipe(epochs=2))
    found = evaluate(method, make_task(), CostCounter())
    assert not [name for name in found.metrics if name.startswith("diversity")]
    assert found.metrics["single/nll"] == found.metrics["nll"]
    assert [len(curve) for curve in found.curves.values()] == [1, 1, 1]


def test_a_temperature_is_fitted_on_held_out_images_alone():
    counter = CostCounter()
    held_out = Split(flat_images(range(60, 180)), torch.randint(C, (120,), generator=torch.Generator().manual_seed(2)))
    method = make_method(counter)
    found = evaluate(method, make_task(validation=held_out), counter).metrics
    p = method.table.double().softmax(-1).mean(1)

    def nll(t, levels, y):
        return nn.functional.cross_entropy(p[levels].log() / t, y).item()

    t = found["temperature"]
    own = nll(t, slice(60, 180), held_out.labels)
    assert all(own <= nll(other * t, slice(60, 180), held_out.labels) for other in (0.97, 0.999, 1.001, 1.03))
    y = make_task().test.labels
    assert found["scaled/nll"] == pytest.approx(nll(t, slice(N), y))
    assert found["scaled/ece"] == pytest.approx(metrics.ece((p[:N].log() / t).log_softmax(-1), y))
    without = evaluate(make_method(CostCounter()), make_task(), counter).metrics
    assert not {"temperature", "scaled/nll", "scaled/ece"} & set(without)


def test_ood_datasets_have_three_metrics():
    counter = CostCounter()
    found = evaluate(make_method(counter), make_task(), counter).metrics
    for metric in ("ood_auroc", "ood_aupr", "ood_fpr95"):
        assert found[metric] == pytest.approx((found[f"{metric}/high"] + found[f"{metric}/same"]) / 2)
    assert found["ood_auroc/same"] == pytest.approx(0.5)


def test_top_5_accuracy_of_many_classes():
    log_p = torch.randn(200, 120, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    y = torch.arange(200) % 120
    inside = (log_p.topk(5).indices == y[:, None]).any(1)
    assert evaluating.prediction_metrics(log_p, y)["top5_accuracy"] == pytest.approx(
        100 * inside.double().mean().item()
    )
    assert "top5_accuracy" not in evaluating.prediction_metrics(log_p[:, :99], y % 99)


@pytest.mark.parametrize(("side", "size"), [(4, 1024), (64, 1024), (224, 83), (5000, 1)])
def test_fewer_large_images_are_predicted_at_once(side, size):
    images = torch.empty(1, 3, 1, 1, dtype=torch.uint8).expand(2, 3, side, side)
    split = Split(images, torch.zeros(2, dtype=torch.int64))
    assert evaluating.evaluation_batch_size(make_task(train=split)) == size


def test_relative_change():
    assert relative_change(80.0, 60.0) == pytest.approx(-0.25)
    assert relative_change(0.8, 0.6) == pytest.approx(-0.25)
    assert relative_change(80.0, 80.0) == 0.0
    assert relative_change(50.0, 60.0) == pytest.approx(0.2)
    assert relative_change(50.0, 0.0) == -1.0
    assert math.isnan(relative_change(0.0, 10.0))


@pytest.mark.parametrize("shape", [(K, 3, C + 1), (K, 3, C - 1), (3, C), (K, 3, C, 1)])
def test_a_prediction_of_other_classes_is_refused(shape):
    logits = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"Fixed.predict returns logits of shape .*, expected \(members, 3, {C}\)"):
        evaluating.check_shape(make_method(CostCounter()), logits, 3, C)


def test_evaluation_refuses_a_class_that_the_dataset_does_not_have():
    counter = CostCounter()
    method = make_method(counter)
    method.table = torch.cat([method.table, method.table[:, :, :1]], 2)
    with pytest.raises(ValueError, match=f"the dataset has {C} classes"):
        evaluate(method, make_task(), counter)
