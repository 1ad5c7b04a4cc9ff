"""Methods without a trap pass the checks: our own, and the plugins beside this file."""

from pathlib import Path

import pytest

from harness.conformance import check_method, check_plugin
from harness.conformance.check_method import Row, check_case, check_methods, compositions
from harness.conformance.finding import failures
from harness.conformance.small_run import Case, one_thread
from harness.parsing.method_expression import parse_method
from harness.parsing.plugins import available_methods, load_plugin
from methods import METHODS
from tests.conftest import SETTINGS

PLUGINS = sorted((Path(__file__).parent / "plugins").glob("*.py"))
OUR_OWN = [f"{name}({', '.join(f'{k}={v}' for k, v in SETTINGS.get(name, {}).items())})" for name in METHODS]
OUR_OWN += [
    "swa(late_phase_bn(K=2, start=0.5), start=0.5)",
    "early_stopping(dropout)",
    "snapshot(swa(start=0.5), M=2)",
    "snapshot(swa, M=3, rate=inner)",
]


def check(expression, methods, network):
    spec, errors = parse_method(expression, methods)
    assert not errors
    with one_thread():
        return check_case(Case(spec, methods, network))


@pytest.mark.long
@pytest.mark.parametrize("expression", OUR_OWN)
def test_our_own_methods_pass(expression):
    row = check(expression, METHODS, "wrn-10-1")
    assert failures(row.findings) == []
    assert not row.refused


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.stem)
def test_plugins_pass(plugin):
    methods = available_methods([plugin])
    for name in load_plugin(plugin):
        row = check(name, methods, "lenet5")
        assert failures(row.findings) == []
        assert not row.refused


COMPOSITIONS = [
    ("ema", "swa(ema)"),
    ("ema", "swag(ema, start=0.5, N=3)"),
    ("laplace", "swa(laplace)"),
    ("mimo", "swag(mimo, start=0.5, N=3)"),
    ("packed_ensemble", "early_stopping(packed_ensemble)"),
    ("csgmcmc", "snapshot(csgmcmc, M=2)"),
    ("soup", "soup(tail, K=2)"),
    ("soup", "deep_ensemble(tail, K=2)"),
    ("temperature", "temperature(deep_ensemble(K=2))"),
    ("temperature", "swag(temperature, start=0.5, N=3)"),
    ("tta", "tta(swa)"),
]


@pytest.mark.long
@pytest.mark.parametrize(("plugin", "expression"), COMPOSITIONS)
def test_their_compositions_pass(plugin, expression):
    (path,) = [path for path in PLUGINS if path.stem == plugin]
    row = check(expression, available_methods([path]), "wrn-10-1")
    assert failures(row.findings) == []
    assert not row.refused
    assert not [found for found in row.findings if found.check == "sharing"], "of our own wrappers"


def test_the_rows_of_a_whole_check(monkeypatch):
    """What each of them says is in the tests above, and in that of what `econ new-method` writes."""
    (plugin,) = [path for path in PLUGINS if path.stem == "ema"]
    methods = available_methods([plugin])
    monkeypatch.setattr(check_method, "check_case", lambda case, *_: Row(str(case.spec), case.architecture, []))
    rows = list(check_methods(["ema(decay=0.8)"], methods, [plugin]))
    assert [(row.expression, row.network) for row in rows] == [
        ("ema(decay=0.8)", "lenet5"),
        ("ema(decay=0.8)", "wrn-10-1"),
        ("ema(decay=0.8)", "cresnet20"),
        ("swa(ema(decay=0.8))", "wrn-10-1"),
        ("swag(ema(decay=0.8), N=3, start=0.5)", "wrn-10-1"),
        ("snapshot(ema(decay=0.8), M=2)", "wrn-10-1"),
        ("early_stopping(ema(decay=0.8))", "wrn-10-1"),
        ("deep_ensemble(ema(decay=0.8), K=2)", "wrn-10-1"),
    ]


def test_compositions_of_a_wrapper_hold_other_methods():
    spec, _ = parse_method("early_stopping", METHODS)
    found = compositions("early_stopping", spec, METHODS, trains=True)
    assert found[0] == "early_stopping(late_phase_bn(K=2, start=0.5))"
    spec, _ = parse_method("early_stopping(metric=accuracy)", METHODS)
    found = compositions("early_stopping(metric=accuracy)", spec, METHODS, trains=True)
    assert found[1] == "early_stopping(swa, metric=accuracy)"


def test_what_cannot_be_built_at_all_fails(tmp_path):
    path = tmp_path / "never.py"
    path.write_text(
        "from methods import Method\n"
        "class Never(Method):\n"
        "    'Never.'\n"
        "    def __init__(self, make_net, recipe):\n"
        "        raise ValueError('needs 100 epochs')\n"
    )
    (failure,) = check_plugin(path)
    assert "it cannot be built for a training of 6 epochs: needs 100 epochs" in failure
