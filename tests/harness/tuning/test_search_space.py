"""The search space of an expression, and expressions with values from it."""

from typing import ClassVar

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.costs.expected_cost import expected_cost
from harness.parsing.method_expression import parse_method
from harness.tuning.search_space import default_values, round_drawn, search_space, with_values
from methods import METHODS, Method
from methods.core.late_phase import LatePhase
from methods.swa import SWA


def spec(text):
    found, errors = parse_method(text, METHODS)
    assert found, errors
    return found


def space(text):
    return search_space(spec(text), text, METHODS)


def test_a_composed_method_has_the_spaces_of_all_its_parts():
    found = space("swa(late_phase_bn)")
    inner = {f"late_phase_bn.{name}": each for name, each in LatePhase.space.items()}
    assert found == {**SWA.space, **inner}
    deep = space("snapshot(label_smoothing(dropout))")
    assert list(deep) == ["M", "ratio", "label_smoothing.epsilon", "label_smoothing.dropout.p"]


@pytest.mark.parametrize("text", ["late_phase_bn(K=5)", "late_phase_bn(K=10)"])
def test_written_values_are_not_searched_even_if_they_equal_the_default(text):
    assert "K" not in space(text)
    assert set(space(text)) == {"start", "sigma0", "gamma_theta"}
    assert "late_phase_bn.K" not in space(f"swa({text})")


def test_an_empty_search_space():
    assert space("sgd") == {}
    assert space("swa(sgd, start=0.9, ratio=0.3)") == {}
    assert space("mc_dropout(p=0.1, K=4)") == {}


@pytest.mark.parametrize("name", METHODS)
def test_the_default_values_of_every_method_leave_its_spec_unchanged(name):
    values = default_values(spec(name), name, METHODS)
    assert set(values) == set(space(name)) == set(METHODS[name].space)
    assert with_values(spec(name), values, METHODS) == spec(name)


def test_a_default_outside_of_its_space_is_refused():
    class Odd(Method):
        space: ClassVar = {"a": FloatDistribution(0.0, 1.0)}

        def __init__(self, make_net, recipe, *, a: float | None = None):
            super().__init__(make_net, recipe)

    methods = {**METHODS, "odd": Odd}
    with pytest.raises(ValueError, match=r"odd: the default a=None is outside its space"):
        default_values(parse_method("odd", methods)[0], "odd", methods)


def test_values_are_part_of_the_expression():
    values = {"start": 0.9, "late_phase_bn.sigma0": 0.25, "late_phase_bn.gamma_theta": "1/K"}
    found = with_values(spec("swa(late_phase_bn(K=5))"), values, METHODS)
    assert str(found) == "swa(late_phase_bn(K=5, sigma0=0.25, gamma_theta='1/K'), start=0.9)"
    assert found == spec(str(found))
    assert str(with_values(spec("swa"), {"start": 0.8}, METHODS)) == "swa", "a default is left out"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"begin": 0.5}, "swa has no hyperparameter 'begin'"),
        ({"late_phase_bn.sigma": 0.5}, "late_phase_bn has no hyperparameter 'sigma'"),
        ({"start": 1.5}, "start = 1.5"),
    ],
)
def test_invalid_values_are_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        with_values(spec("swa(late_phase_bn)"), values, METHODS)


def test_drawn_values_are_rounded_and_stay_in_their_range():
    assert round_drawn(0.123456789, FloatDistribution(0.0, 1.0)) == 0.1235
    assert round_drawn(1.23456e-5, FloatDistribution(1e-6, 1.0, log=True)) == 1.235e-5
    assert round_drawn(0.9999999, FloatDistribution(0.0, 0.99995)) == 0.99995
    assert round_drawn(0.3, FloatDistribution(0.0, 1.0, step=0.1)) == 0.3
    assert round_drawn(7, IntDistribution(1, 10)) == 7
    assert round_drawn("1/K", CategoricalDistribution([1.0, "1/K"])) == "1/K"


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("sgd", 1.0),
        ("batch_ensemble(K=3)", 3.0),
        ("integral", 3.0 + 1 / 30),
        ("late_independent(K=3, start=0.5)", 2.0),
        ("late_independent(K=3, start=4)", 0.4 + 3 * 0.6),
        ("swa(batch_ensemble(K=3))", 3.0 + 1 / 30),
        ("swag(N=6)", 1.0 + 6 / 30),
    ],
)
def test_expected_costs(text, cost):
    assert expected_cost(spec(text), METHODS, 10) == pytest.approx(cost)


def test_a_cost_that_cannot_be_computed_names_the_expression():
    from methods import About

    class Odd(Method):
        about = About("", "", training="K / 0")

    with pytest.raises(ValueError, match=r"Odd\.about\.training: K / 0: "):
        expected_cost(parse_method("odd", {**METHODS, "odd": Odd})[0], {**METHODS, "odd": Odd}, 10)
