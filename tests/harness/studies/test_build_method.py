"""Tests of building a run's networks: initialized, pretrained, and on the meta device."""

import pytest
import torch

from data import DatasetShape
from harness.parsing.method_expression import MethodSpec
from harness.planning.plan import shape
from harness.studies import build_method as build
from harness.studies.build_method import MetaMethods, build_meta_method, make_method
from harness.studies.run import DatasetSpec, Run
from methods import METHODS, Method, Need, Recipe

SHAPE = DatasetShape(3, 224, 1000, 12)


def run(**changes):
    values = {
        "dataset": DatasetSpec(name="imagenet"),
        "architecture": "resnet18",
        "method": MethodSpec(name="line"),
        "seed": 0,
        "recipe": Recipe(epochs=1, initial="imagenet1k_v1"),
    }
    return Run(**(values | changes))


def test_every_network_of_a_method_starts_from_the_pretrained_weights(monkeypatch, tmp_path):
    asked = []

    def pretend(net, architecture, root):
        asked.append((architecture, root))
        with torch.no_grad():
            net.fc.bias.fill_(7.0)

    monkeypatch.setattr(build, "load_pretrained", pretend)
    method = make_method(run(), METHODS, SHAPE, weights=tmp_path)
    assert asked == [("resnet18", tmp_path)] * 2  # both ends of the line
    assert all((net.fc.bias == 7).all() for net in (method.net, *method.others))
    drawn = make_method(run(recipe=Recipe(epochs=1)), METHODS, SHAPE, weights=tmp_path)
    assert len(asked) == 2
    assert (drawn.net.fc.bias != 7).all()


def test_planning_needs_no_weights():
    assert next(build_meta_method(run(), METHODS, SHAPE).parameters()).is_meta


def test_meta_method_has_the_shapes_of_the_real_method():
    spec = run(recipe=Recipe(epochs=1))
    real, meta = (
        {name: (v.shape, v.dtype) for name, v in (*method.named_parameters(), *method.named_buffers())}
        for method in (make_method(spec, METHODS, SHAPE), build_meta_method(spec, METHODS, SHAPE))
    )
    assert meta == real and len(real) > 100


def test_initialization_is_skipped_on_the_meta_device_only():
    torch.manual_seed(0)
    expected = torch.empty(5).normal_(2.0, 3.0)
    with build.SkipInitialization():
        torch.manual_seed(0)
        assert torch.equal(torch.empty(5).normal_(2.0, 3.0), expected)
        nothing = torch.empty(5, device="meta")
        assert nothing.normal_() is nothing and torch.nn.init.kaiming_normal_(torch.empty(2, 5, device="meta")).is_meta
        for refused in ((0.0, -1.0), {"std": -1.0}):
            with pytest.raises(RuntimeError, match="std >= 0"):
                nothing.normal_(*refused) if isinstance(refused, tuple) else nothing.normal_(**refused)


def test_meta_method_is_built_once_for_all_seeds_and_refused_each_time():
    meta_methods = build.MetaMethods(METHODS)
    assert meta_methods.build(run(), SHAPE) is meta_methods.build(run().model_copy(update={"seed": 5}), SHAPE)
    assert meta_methods.build(run(), SHAPE) is not meta_methods.build(run(recipe=Recipe(epochs=2)), SHAPE)
    for _ in range(2):
        with pytest.raises(ValueError, match="1000 classes, the data have 3 and 10"):
            meta_methods.build(run(), SHAPE._replace(classes=10))


def test_data_that_do_not_fit_are_refused_before_anything_is_downloaded():
    with pytest.raises(ValueError, match="1000 classes, the data have 3 and 10"):
        build_meta_method(run(), METHODS, SHAPE._replace(classes=10))
    with pytest.raises(ValueError, match="no pretrained weights for wrn-10-1"):
        build_meta_method(run(architecture="wrn-10-1"), METHODS, SHAPE)


class OwnSeeds(Method):
    """Needs seeds that it noted when it was built."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.noted = 10 * make_net.seed

    def needs(self):
        return [Need(self.noted)]


@pytest.mark.parametrize("expression", ["deep_ensemble(K=2)", "deep_ensemble(swa(start=1), K=2)", "own"])
def test_needs_are_those_of_each_seed(make_run, expression):
    methods = METHODS | {"own": OwnSeeds}
    cache = MetaMethods(methods)
    for seed in range(4):
        run = make_run(expression, seed=seed, methods=methods)
        assert cache.needs(run, shape(run)) == build_meta_method(run, methods, shape(run)).needs(), seed
    assert list(cache.needs_follow_seed.values()) == [expression != "own"]


class OwnNetwork(Method):
    """Trains a network of its own in the place of the study's."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


class OwnHead(Method):
    """Gives the study's network another last layer."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        name, head = [pair for pair in self.net.named_modules() if isinstance(pair[1], torch.nn.Linear)][-1]
        self.net.set_submodule(name, torch.nn.Linear(head.in_features, head.out_features))


@pytest.mark.parametrize("built", [make_method, build_meta_method])
@pytest.mark.parametrize("expression", ["own_net", "swa(own_net)", "deep_ensemble(own_net)"])
def test_a_network_that_make_net_did_not_draw_is_refused(make_run, expression, built):
    methods = {**METHODS, "own_net": OwnNetwork, "own_head": OwnHead}
    spec = make_run(expression, methods=methods)
    with pytest.raises(ValueError, match=r"^OwnNetwork\.net is not a network that make_net drew: .*set_submodule"):
        built(spec, methods, shape(spec))
    spec = make_run(expression.replace("own_net", "own_head"), methods=methods)
    built(spec, methods, shape(spec))
