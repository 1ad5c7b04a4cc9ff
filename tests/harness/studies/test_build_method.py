"""Networks of a run: drawn, or with pretrained weights."""

import pytest
import torch

from data import DatasetShape
from harness.parsing.method_expression import MethodSpec
from harness.studies import build_method as build
from harness.studies.build_method import imagine_method, make_method
from harness.studies.run import DatasetSpec, Run
from methods import METHODS, Recipe

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
    assert next(imagine_method(run(), METHODS, SHAPE).parameters()).is_meta


def test_what_is_imagined_has_the_shapes_of_what_is_made():
    spec = run(recipe=Recipe(epochs=1))
    made, imagined = (
        {name: (v.shape, v.dtype) for name, v in (*method.named_parameters(), *method.named_buffers())}
        for method in (make_method(spec, METHODS, SHAPE), imagine_method(spec, METHODS, SHAPE))
    )
    assert imagined == made and len(made) > 100


def test_normal_values_are_drawn_where_there_is_memory_and_only_there():
    torch.manual_seed(0)
    expected = torch.empty(5).normal_(2.0, 3.0)
    with build.Undrawn():
        torch.manual_seed(0)
        assert torch.equal(torch.empty(5).normal_(2.0, 3.0), expected)
        nothing = torch.empty(5, device="meta")
        assert nothing.normal_() is nothing and torch.nn.init.kaiming_normal_(torch.empty(2, 5, device="meta")).is_meta
        for refused in ((0.0, -1.0), {"std": -1.0}):
            with pytest.raises(RuntimeError, match="std >= 0"):
                nothing.normal_(*refused) if isinstance(refused, tuple) else nothing.normal_(**refused)


def test_a_method_is_imagined_once_for_all_seeds_and_refused_each_time():
    imagined = build.Imagined(METHODS)
    assert imagined(run(), SHAPE) is imagined(run().model_copy(update={"seed": 5}), SHAPE)
    assert imagined(run(), SHAPE) is not imagined(run(recipe=Recipe(epochs=2)), SHAPE)
    for _ in range(2):
        with pytest.raises(ValueError, match="1000 classes, the data have 3 and 10"):
            imagined(run(), SHAPE._replace(classes=10))


def test_data_that_do_not_fit_are_refused_before_anything_is_downloaded():
    with pytest.raises(ValueError, match="1000 classes, the data have 3 and 10"):
        imagine_method(run(), METHODS, SHAPE._replace(classes=10))
    with pytest.raises(ValueError, match="no pretrained weights for wrn-10-1"):
        imagine_method(run(architecture="wrn-10-1"), METHODS, SHAPE)
