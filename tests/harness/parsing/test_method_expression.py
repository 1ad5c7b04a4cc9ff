"""Tests that method expressions are parsed, checked and written."""

import keyword
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from harness.parsing.method_expression import MethodSpec, format_value, hyperparameters, parse_method
from harness.parsing.yaml_errors import suggest_closest
from harness.studies.run import DatasetSpec, Run
from methods import METHODS, SWA, DeepEnsemble, LatePhaseBatchNorm, MakeNet, Method, Recipe
from tests.conftest import TinyNet


class Odd(Method):
    """Takes values of every kind."""

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: Any = None,
        whole: int = 1,
        real: float = 0.5,
        yes: bool = False,
        word: str = "plain",
        maybe: float | None = 0.25,
        choice: Annotated[float, Field(gt=0)] | Literal["1/K"] = 1.0,
        several: tuple[float, ...] = (),
        place: tuple[float, ...] | None = None,
        ends: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(make_net, recipe)


KNOWN = METHODS | {"odd": Odd}
words = st.one_of(
    st.text(max_size=8),
    st.sampled_from([*keyword.kwlist, *keyword.softkwlist, "average", "1/K", "a b", "ℌ", "é"]),
)
values = {
    "whole": st.integers(),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "yes": st.booleans(),
    "word": words,
    "maybe": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "choice": st.just("1/K") | st.floats(1e-300, 1e300),
    "several": st.lists(st.floats(-9, 9), max_size=3).map(tuple),
    "place": st.none() | st.lists(st.floats(-9, 9), max_size=4).map(tuple),
    "ends": st.none() | st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
}


@st.composite
def odd(draw: st.DrawFn, depth: int = 2) -> MethodSpec:
    """A spec as `parse_method` returns it: hyperparameters in the method's order, without defaults."""
    default = {name: default for name, (_, default) in hyperparameters(Odd).items()}
    chosen = {name: draw(values[name]) for name in values if draw(st.booleans())}
    chosen = {name: value for name, value in chosen.items() if value != default[name]}
    of = draw(odd(depth=depth - 1)) if depth and draw(st.booleans()) else None
    return MethodSpec(name="odd", hyperparameters=chosen, of=of)


def types(value: Any) -> Any:
    """The type of a value, and of the items of a tuple."""
    return [type(value), *map(types, value)] if isinstance(value, tuple) else type(value)


def key(spec: MethodSpec) -> str:
    dataset, recipe = DatasetSpec(name="digits"), Recipe(epochs=1)
    return Run(dataset=dataset, architecture="lenet5", method=spec, seed=0, recipe=recipe).key


@given(odd())
def test_what_is_written_is_read_back(spec):
    read, errors = parse_method(str(spec), KNOWN)
    assert errors == []
    assert read == spec
    assert str(read) == str(spec)
    assert key(read) == key(spec)
    for name, value in spec.hyperparameters.items():
        assert types(read.hyperparameters[name]) == types(value)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("odd(place=(0.2, 0.3, .5))", "odd(place=(0.2, 0.3, 0.5))"),
        ("odd(place=[1, 0])", "odd(place=(1.0, 0.0))"),
        ("odd(place=(0.5,))", "odd(place=(0.5,))"),
        ("odd(place=())", "odd(place=())"),
        ("odd(place=None, ends=None)", "odd(ends=None)"),
        ("odd(ends=(0, 1), several=[])", "odd"),
    ],
)
def test_canonical_form_of_tuples(text, written):
    spec, errors = parse_method(text, KNOWN)
    assert errors == []
    assert str(spec) == written
    assert key(spec) == key(parse_method(written, KNOWN)[0])


def test_different_tuple_values_have_different_keys():
    texts = ["odd", "odd(place=())", "odd(place=(0.5,))", "odd(place=(0.5, 0.5))", "odd(several=(0.5,))"]
    assert len({key(parse_method(text, KNOWN)[0]) for text in texts}) == len(texts)


@given(st.text(max_size=30))
def test_any_text_gives_a_method_or_errors_never_an_exception(text):
    spec, errors = parse_method(text, KNOWN)
    assert (spec is None) == bool(errors)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("sgd", "sgd"),
        (" sgd() ", "sgd"),
        ("swa( late_phase_bn( K = 5 ) , start = .8 )", "swa(late_phase_bn(K=5))"),
        ("swa(late_phase_bn(K=5), ratio=None)", "swa(late_phase_bn(K=5), ratio=None)"),
        ("late_phase_bn(prediction=members)", "late_phase_bn(prediction=members)"),
        ("late_phase_bn(prediction='members')", "late_phase_bn(prediction=members)"),
        ("late_phase_bn(gamma_theta='1/K')", "late_phase_bn(gamma_theta='1/K')"),
        ("late_phase_bn(sigma0=1, K='3')", "late_phase_bn(K=3, sigma0=1.0)"),
        ("late_phase_bn(start=120)", "late_phase_bn(start=120)"),
        ("line(alpha=-0.5)", "line(alpha=-0.5)"),
        ("deep_ensemble(K=3)", "deep_ensemble(K=3)"),
    ],
)
def test_canonical_form(text, written):
    spec, errors = parse_method(text, METHODS)
    assert errors == []
    assert str(spec) == written


def test_a_whole_start_is_an_epoch_and_a_fraction_a_part():
    epoch, _ = parse_method("late_phase_bn(start=1)", METHODS)
    share, _ = parse_method("late_phase_bn(start=1.0)", METHODS)
    assert epoch and share
    assert [type(spec.hyperparameters["start"]) for spec in (epoch, share)] == [int, float]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("sdg", ["unknown method 'sdg'; did you mean 'sgd'? there are "]),
        ("sgd(swa)", ["sgd takes no other method"]),
        ("sgd(K=1)", ["sgd has no hyperparameter 'K'; it has none"]),
        ("swa(sgd, sgd)", ["swa takes one other method, not 2"]),
        (
            "swa(strat=0.5)",
            ["swa has no hyperparameter 'strat'; did you mean 'start'? there are alpha, anneal, before, checkpoints, "],
        ),
        ("swa(of=sgd)", ["swa has no hyperparameter 'of'; "]),
        ("swa(**{})", ["swa has no hyperparameter '**'; there are "]),
        ("swa(ratio=0)", ["swa: ratio = 0: Input should be greater than 0"]),
        ("swa(ratio=1e999)", ["swa: ratio = inf: Input should be a finite number"]),
        ("swa(ratio=half)", ["swa: ratio = 'half': Input should be a valid number"]),
        ("swa(ratio=1+1)", ["swa: ratio = 1 + 1 is not a plain value"]),
        ("swa(ratio={[]})", ["swa: ratio = {[]} is not a plain value"]),
        ("swa(ratio=open('x'))", ["swa: ratio = open('x') is not a plain value"]),
        ("swa(ratio=1, ratio=2)", ["swa: ratio is written twice"]),
        ("late_phase_bn(K=2.5)", ["late_phase_bn: K = 2.5: Input should be a valid integer"]),
        ("late_phase_bn(prediction=mean)", ["late_phase_bn: prediction = 'mean': Input should be 'average' or 'mem"]),
        ("odd(place=0.5)", ["odd: place = 0.5: Input should be a valid tuple"]),
        ("odd(place=(0.5, half))", ["odd: place = (0.5, half) is not a plain value"]),
        ("odd(place=(0.5, 'half'))", ["odd: place = (0.5, 'half'): Input should be a valid number"]),
        ("odd(place=(0.5, 1e999))", ["odd: place = (0.5, inf): Input should be a finite number"]),
        ("odd(ends=(0.5,))", ["odd: ends = (0.5,): Field required"]),
        ("a.b", ["'a.b' is not a method like swa(late_phase_bn(K=5), start=0.8)"]),
        ("swa(", ["'swa(' is not a method like swa(late_phase_bn(K=5), start=0.8): '(' was never closed"]),
        ("", ["'' is not a method like"]),
        (
            "swa(late_phase_bn(k=2), strat=1)",
            ["late_phase_bn has no hyperparameter 'k'; ", "swa has no hyperparameter"],
        ),
    ],
)
def test_errors_in_words(text, messages):
    spec, errors = parse_method(text, KNOWN)
    assert spec is None
    assert len(errors) == len(messages)
    for error, message in zip(errors, messages, strict=True):
        assert error.startswith(message)


def test_hyperparameters_of_base_classes_count_too():
    found = hyperparameters(LatePhaseBatchNorm)
    assert found["last_layer"][1] is True
    assert found["K"][1] == 10
    assert "hyperparameters" not in found
    assert list(hyperparameters(SWA))[:5] == ["every", "prediction", "points", "alpha", "of"]


def test_make_builds_what_is_written():
    spec, _ = parse_method("deep_ensemble(swa(late_phase_bn(K=3, start=1), start=2), K=2)", METHODS)
    assert spec
    method = spec.make(METHODS)(MakeNet(TinyNet, 0), Recipe(epochs=4))
    assert isinstance(method, DeepEnsemble)
    assert [type(part) for part in method.run_methods] == [SWA, SWA]
    inner = method.run_methods[0].inner
    assert (inner.K, inner.start_epoch, method.run_methods[0].start_epoch) == (3, 1, 2)


def test_spec_has_the_version_of_the_class():
    class Second(Odd):
        version = 2

    spec, _ = parse_method("label_smoothing(odd)", METHODS | {"odd": Second})
    assert spec and spec.of
    assert (spec.version, spec.of.version) == (1, 2)


def test_literals():
    assert [format_value(value) for value in ("members", "1/K", "None", "lambda", True, None, 0.1, 3)] == [
        "members",
        "'1/K'",
        "'None'",
        "'lambda'",
        "True",
        "None",
        "0.1",
        "3",
    ]


def test_closest():
    assert suggest_closest("swe", ["swa", "sgd"]) == "did you mean 'swa'? there are sgd, swa"
    assert suggest_closest("xxxx", ["swa", "sgd"]) == "there are sgd, swa"
