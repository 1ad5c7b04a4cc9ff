"""What `econ list` says."""

import re
import subprocess
from typing import ClassVar, Literal

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.catalogue import listing as listing
from harness.planning import study_cost
from methods import METHODS, About, Method
from models import architecture_names


class Rich(Method):
    """Do something | special.

    More of it.
    """

    space: ClassVar = {
        "K": IntDistribution(2, 8, step=2),
        "beta": FloatDistribution(0.01, 1.0, log=True),
        "gamma": CategoricalDistribution([1.0, "1/K"]),
    }
    about: ClassVar = About("kin", "Doe 2020", training="1 + start", passes="K", prediction="K if wide else 1")

    def __init__(
        self,
        make_net,
        recipe,
        *,
        of=None,
        K: int = 4,
        beta: float = 0.1,
        gamma: str = "1/K",
        wide: bool = True,
        prediction: Literal["average", "members"] = "average",
        ratio: float | Literal["auto"] = 1.0,
    ):
        super().__init__(make_net, recipe)


@pytest.fixture
def rich(monkeypatch):
    monkeypatch.setattr(listing, "available_methods", lambda plugins: {"rich": Rich, "bare": Method})


def test_a_block(rich):
    assert listing.methods(width=60).startswith(
        """\
rich(METHOD)                                  kin · Doe 2020
    Do something | special.
    training × (1 + start) + K passes, prediction × K
    K          = 4         search 2 to 8, in steps of 2
    beta       = 0.1       search 0.01 to 1.0, logarithmic
    gamma      = '1/K'     search 1.0 or '1/K'
    wide       = True
    prediction = average   average or members
    ratio      = 1.0       auto

bare
    Train one network with minibatch SGD; a subclass
    overrides only what its method does differently.

Costs are relative to"""
    )


def test_a_table(rich):
    head, rule, rich, bare, *_ = listing.methods_as_markdown().splitlines()
    assert head == "| method | what it does | paper | training cost | prediction cost |"
    assert rule == "| --- | --- | --- | --- | --- |"
    costs = "`1 + start` + `K` passes | `K`"  # wide by default
    assert rich == f"| `rich(METHOD)` | Do something \\| special. | Doe 2020 | {costs} |"
    assert bare.endswith("|  | – | – |")


def test_one_pass():
    assert [listing.passes(expression) for expression in ("0", "1", "N", "2 * N")] == [
        "",
        " + 1 pass",
        " + N passes",
        " + (2 * N) passes",
    ]


def test_architectures_are_listed_by_the_names_that_a_study_writes():
    listed = dict(listing.models())
    assert list(listed) == architecture_names()
    assert listed["wrn-DEPTH-WIDTH"].startswith("Wide residual network")
    assert listed["cresnet20-conv"] == "The same, but its last layer is a 1 x 1 convolution without bias."


def test_every_method_fits_into_100_columns():
    text = listing.methods()
    assert max(map(len, text.splitlines())) <= 100
    for name in METHODS:
        assert re.search(rf"^{name}(\(METHOD\))?( {{2,}}.*)?$", text, re.MULTILINE), name


def test_what_an_edited_study_costs_is_counted_and_said(monkeypatch, capsys):
    known = study_cost.read_costs()
    counted = study_cost.StudyCost("", 3, 600, 400, 9.0, 6.0)
    monkeypatch.setattr(study_cost, "read_costs", lambda: {k: v for k, v in known.items() if k != "digits"})
    monkeypatch.setattr(study_cost, "count_cost", {"digits": counted}.__getitem__)
    listed = dict(listing.studies())
    assert f"[{counted}]" in listed["digits"] and f"[{known['leaderboard']}]" in listed["leaderboard"]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "counting what digits costs …\n")


@pytest.mark.long
def test_studies_are_read_as_utf_8_whatever_the_machine_takes_for_usual(econ, environment):
    ascii_machine = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([*econ, "list", "studies"], env=environment | ascii_machine, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "K, σ0 and T0 varied" in done.stdout.decode()
