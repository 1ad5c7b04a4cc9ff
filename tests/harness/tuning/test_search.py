"""A search: which values it tries next, when it ends, and which searches a study has."""

from dataclasses import replace
from typing import ClassVar

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from harness.parsing.method_expression import parse_method
from harness.parsing.yaml_errors import StudyError
from harness.studies.run import Run
from harness.studies.study import load
from harness.tuning.search import Search, trial_for_sampler
from harness.tuning.search_space import normalize_expression
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_budget import Budget, BudgetUse, budget_used
from harness.tuning.trial_journal import Journal
from methods import METHODS, Method


class Picky(Method):
    """A method that refuses some values of its space."""

    space: ClassVar = {"a": IntDistribution(1, 4), "b": CategoricalDistribution([False, True])}

    def __init__(self, make_net, recipe, *, a: int = 1, b: bool = False):
        super().__init__(make_net, recipe)
        if b:
            raise ValueError(f"a={a} and b=True do not go together")


@pytest.fixture
def held_out(npz):
    return [{"name": f"npz:{npz}", "validation": 15}]


@pytest.fixture
def study(tmp_path, write_study, held_out):
    def write(*methods, **changes):
        return load(str(write_study(tmp_path / "s.yaml", **{"datasets": held_out, "methods": [*methods], **changes})))

    return write


def searches(study, *labels, metric="nll", seed=1000):
    return find_searches(study, metric, seed, labels)


def picky(run, methods):
    spec = parse_method("picky", methods)[0]
    run = run.model_copy(update={"method": spec})
    return Search(run, "picky", dict(Picky.space), {"a": 1, "b": False}, "nll", True, methods, "picky")


AMPLE = Budget(100, 100.0)


def fill(search, runs, count, end=lambda n: ("finished", 1.0 / (n + 1), "", 1.0), budget=AMPLE):
    """Make `count` proposals and end their trials, as a schedule does."""
    journal = Journal(runs, search.key, search.metric)
    for _ in range(count):
        trials = journal.trials()
        proposal = search.propose(trials, budget)
        if proposal.run is None:
            journal.refuse(proposal.values, search.space, proposal.attributes, proposal.refused)
            continue
        journal.begin(proposal.values, search.space, proposal.attributes)
        journal.tell(len(trials), *end(len(trials)))
    return journal.trials()


def test_the_first_trial_has_the_studys_own_values_but_another_seed(study):
    found = searches(study("dropout", "sgd", seeds=[0, 3]))
    (search,) = found.searches
    assert found.untuned == {("rows validation=15 · lenet5", "sgd"): "nothing to search"}
    first = search.propose([], Budget(1, 1.0))
    assert (first.values, str(first.run.method), first.cost) == ({"p": 0.2}, "dropout", 1.0)
    assert first.run.seed == 1000
    assert (first.run.dataset.ood, first.run.dataset.corruptions) == ((), "none"), "OOD datasets are not loaded"
    assert search.run.dataset.label == "rows validation=15"


def test_the_next_values_are_a_function_of_seed_and_trials(study, tmp_path):
    (search,) = searches(study("late_phase_bn(K=2)")).searches
    trials = fill(search, tmp_path / "a", 9)
    assert [t.params for t in trials] == [t.params for t in fill(search, tmp_path / "b", 9)]
    assert len({str(t.params) for t in trials}) == 9
    for number in range(1, 9):  # in every process, and after any number of restarts
        assert search.propose(trials[:number], Budget(99, 99.0)).values == trials[number].params
    (other,) = searches(study("late_phase_bn(K=2)"), seed=1001).searches
    assert other.propose(trials[:1], Budget(99, 99.0)).values != trials[1].params
    assert other.key != search.key


def test_the_search_improves_on_chance(study, tmp_path):
    """After some trials, proposals are near the known optimum more often than by chance."""
    (search,) = searches(study("dropout")).searches
    journal = Journal(tmp_path, search.key, "nll")
    for n in range(25):
        proposal = search.propose(journal.trials(), Budget(99, 99.0))
        journal.begin(proposal.values, search.space, {"key": str(n), "expected": 1.0})
        journal.tell(n, "finished", abs(proposal.values["p"] - 0.4), "", 1.0)
    near = sum(abs(trial.params["p"] - 0.4) < 0.05 for trial in journal.trials()[10:])
    assert near >= 8, "by chance, 3 of 15 would be near"


def test_refused_values_cost_nothing_and_their_number_is_limited(make_run, tmp_path):
    methods = {**METHODS, "picky": Picky}
    search = picky(make_run("sgd"), methods)
    trials = fill(search, tmp_path, 12)
    reasons = {t.user_attrs["end"]["reason"] for t in trials if t.user_attrs["end"]["state"] == "refused"}
    assert any(reason.endswith("and b=True do not go together") for reason in reasons)
    assert any(reason.startswith("the same as trial") for reason in reasons)
    used = budget_used(trials)
    assert used.counted + used.uncounted == 12
    assert used.cost == used.counted <= 4, "four values of a can be trained, once each"
    trials = fill(search, tmp_path, 8)
    assert budget_used(trials).counted == 4, "after a duplicate, values are drawn at random"
    assert budget_used(trials).uncounted == 16
    assert search.can_begin_trial(trials, Budget(17, 99.0))
    assert not search.can_begin_trial(trials, Budget(16, 99.0)), "the limit of refused values ends the search"


def test_a_method_that_costs_three_plain_trainings_gets_a_third_of_the_trials(study, tmp_path):
    (search,) = searches(study("batch_ensemble(K=3)")).searches
    budget = Budget(9, 9.0)
    used = budget_used(search_until_done(search, tmp_path, budget))
    assert (used.counted, used.cost) == (3, 9.0)


def test_values_that_exceed_the_rest_of_the_budget_are_refused(study, tmp_path):
    (search,) = searches(study("batch_ensemble")).searches
    assert "K" in search.space
    trials = fill(search, tmp_path, 30, budget=Budget(30, 8.0), end=lambda n: ("finished", 1.0, "", 4.0))
    reasons = [t.user_attrs["end"]["reason"] for t in trials if t.user_attrs["end"]["state"] == "refused"]
    assert any("plain trainings, and " in reason and reason.endswith("are left") for reason in reasons)


def search_until_done(search, runs, budget):
    """Search until the budget is used. Every trial costs what was expected."""
    journal = Journal(runs, search.key, search.metric)
    while search.can_begin_trial(journal.trials(), budget):
        proposal = search.propose(journal.trials(), budget)
        if proposal.run is None:
            journal.refuse(proposal.values, search.space, proposal.attributes, proposal.refused)
            continue
        journal.begin(proposal.values, search.space, proposal.attributes)
        journal.tell(len(journal.trials()) - 1, "finished", 1.0, "", proposal.cost)
    return journal.trials()


def test_only_passes_over_the_data_may_exceed_the_budget(study, tmp_path):
    """Trials that search K cost 2 to 8 plain trainings, so half a trial more would be up to 4 of them."""
    (search,) = searches(study("batch_ensemble")).searches
    for cost in (10.0, 11.0, 13.0):
        used = budget_used(search_until_done(search, tmp_path / str(cost), Budget(30, cost)))
        assert used.counted > 1
        assert used.cost <= cost
    (search,) = searches(study("swa", recipe={"epochs": 100, "batch_size": 16, "lr": 0.05})).searches
    used = budget_used(search_until_done(search, tmp_path, Budget(20, 20.0)))
    assert (used.counted, used.cost) == (20, pytest.approx(20 * (1 + 1 / 300))), (
        "a pass at the end of each trial is allowed"
    )


def test_the_studys_own_values_are_tried_even_if_they_alone_exceed_the_budget(study, tmp_path):
    (search,) = searches(study("batch_ensemble(K=4)")).searches
    trials = search_until_done(search, tmp_path, Budget(3, 2.0))
    assert [trial.params for trial in trials] == [search.defaults]
    assert budget_used(trials).cost == 4.0


def make_trials(search, *ends):
    """Make eight trials, of which the first have the given end states and attributes."""
    drawn = [0.05 * (1 + n) for n in range(8)]
    trials = []
    for n, p in enumerate(drawn):
        state, attributes = ends[n] if n < len(ends) else ("finished", {})
        trials.append(
            create_trial(
                state={"finished": TrialState.COMPLETE, "diverged": TrialState.FAIL, "running": TrialState.RUNNING}.get(
                    state, TrialState.PRUNED
                ),
                value=abs(p - 0.25) if state == "finished" else None,
                params={"p": p},
                distributions=search.space,
                user_attrs={"end": {"state": state, "reason": "", "cost": 1.0}, **attributes},
            )
        )
    return trials


def test_the_trials_that_the_sampler_is_told_of(study):
    """A duplicate is left out, and a diverged trial ranks as the worst."""
    (search,) = searches(study("dropout")).searches
    plain = make_trials(search)
    assert trial_for_sampler(plain[0]) is plain[0]
    assert trial_for_sampler(make_trials(search, ("refused", {"same_as": 0}))[0]) is None
    refused = make_trials(search, ("refused", {}))[0]
    assert trial_for_sampler(refused) is refused
    nan = make_trials(search, ("diverged", {}))[0]
    assert (trial_for_sampler(nan).state, trial_for_sampler(nan).params) == (TrialState.PRUNED, nan.params)
    drawn = {
        state: search.sample(make_trials(search, *[("finished", {})] * 4, (state, {})))["p"]
        for state in ("refused", "diverged")
    }
    assert drawn["diverged"] == drawn["refused"], "both rank as the worst"


def test_running_trials_keep_a_search_away_from_their_values(study):
    """With seven running trials, fewer of many draws are near them than without."""
    (one,) = searches(study("dropout")).searches
    near = {}
    for known in (True, False):
        found = []
        for seed in range(1000, 1040):
            search = replace(one, run=one.run.model_copy(update={"seed": seed}))
            trials = make_trials(search)
            running = [
                create_trial(state=TrialState.RUNNING, params={"p": 0.25}, distributions=search.space) for _ in range(7)
            ]
            found.append(search.sample([*trials, *(running if known else [])])["p"])
        near[known] = sum(abs(p - 0.25) < 0.03 for p in found)
    assert near[True] < near[False] / 2


def test_a_written_default_makes_another_search(study):
    """A study that writes K=10, the default, fixes K. The method without K is another search."""
    found = searches(study({"pinned": "mc_dropout(K=10)"}, {"free": "mc_dropout"})).searches
    assert [(search.label, search.expression) for search in found] == [
        ("pinned", "mc_dropout(K=10)"),
        ("free", "mc_dropout"),
    ]
    assert found[0].run == found[1].run
    assert found[1].space.keys() - found[0].space.keys() == {"K"}


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("sgd", "sgd"),
        ("mc_dropout(K=10)", "mc_dropout(K=10)"),
        ("late_phase_bn(start=1, K=2)", "late_phase_bn(K=2, start=1)"),
        ("swa(late_phase_bn(K=2), start=0.5)", "swa(late_phase_bn(K=2), start=0.5)"),
        ("swa(dropout(p=0.2))", "swa(dropout(p=0.2))"),
        ("swa( dropout )", "swa(dropout)"),
        ("swa(sgd)", "swa"),
    ],
)
def test_normalize_expression(text, normalized):
    spec = parse_method(text, METHODS)[0]
    assert normalize_expression(spec, text, METHODS) == normalized
    assert parse_method(normalized, METHODS)[0] == spec
    assert normalize_expression(spec, normalized, METHODS) == normalized


def test_budget_used(study, tmp_path):
    (search,) = searches(study("dropout")).searches
    ends = [("finished", 1.0, "", 1.0), ("pruned", None, "x", 0.5), ("failed", None, "x", 0.0)]
    ends += [("diverged", None, "x", 0.25)]
    trials = fill(search, tmp_path, 4, end=lambda n: ends[n])
    assert budget_used(trials) == BudgetUse(counted=3, running=0, uncounted=1, cost=1.75)
    assert search.best(trials).number == 0
    journal = Journal(tmp_path, search.key, "nll")
    journal.begin(trials[2].params, search.space, {"key": trials[2].user_attrs["key"], "expected": 1.0})
    assert budget_used(journal.trials()) == BudgetUse(counted=4, running=1, uncounted=0, cost=2.75), (
        "it is retried, and the retry runs"
    )
    assert search.unretried_failures(journal.trials()) == []


def test_of_equally_good_trials_the_earliest_is_best(study, tmp_path):
    for metric, best in (("nll", 2), ("accuracy", 1)):
        (search,) = searches(study("dropout"), metric=metric).searches
        values = [2.0, 3.0, 1.0, 1.0, 3.0]
        trials = fill(search, tmp_path, 5, end=lambda n, values=values: ("finished", values[n], "", 1.0))
        assert search.best(trials).number == best
        assert search.better(1.0, 2.0) == (metric == "nll")


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        (["deep_ensemble(K=2)"], "it combines runs of plain training, which has nothing to search"),
        (["sgd"], "nothing to search"),
        (["dropout(p=0.2)"], "nothing to search: all its hyperparameters are written out"),
        (["early_stopping(dropout, criterion=test)"], "it selects on test data, which tuning never reads"),
    ],
)
def test_methods_without_a_search(study, methods, reason):
    found = searches(study(*methods))
    assert found.searches == []
    assert list(found.untuned.values()) == [reason]


def test_a_deep_ensemble_shares_the_search_of_its_members(study):
    text = "late_phase_bn(K=2)"
    (search,) = searches(study({"late": text}, f"deep_ensemble({text}, K=2)")).searches
    assert (search.label, str(search.run.method)) == ("late", text)
    (alone,) = searches(study(f"deep_ensemble({text}, K=2)")).searches
    assert (alone.key, alone.label) == (search.key, text)


def test_what_cannot_be_tuned_is_refused_with_a_remedy(study, npz):
    with pytest.raises(StudyError) as caught:
        searches(study("dropout", datasets=[f"npz:{npz}"], seeds=[0, 1]), "swe", seed=1)
    text = str(caught.value)
    assert f"rows holds out no validation data to tune on: write `datasets: [{{name: npz:{npz}, validation: " in text
    assert "--method swe: the study has dropout" in text
    assert "--seed 1 is one of the study's own (0, 1)" in text
    with pytest.raises(StudyError, match=r"--seed 3 is one of the study's own \(0, 1, 2, 3\)"):
        searches(study("deep_ensemble(dropout, K=2)", seeds=[0, 1]), seed=3)


def test_the_key_depends_on_everything_that_determines_a_search(study):
    keys = [
        searches(study("dropout")).searches[0].key,
        searches(study("dropout"), metric="accuracy").searches[0].key,
        searches(study("dropout", recipe={"epochs": 4, "batch_size": 16, "lr": 0.05})).searches[0].key,
        find_searches(study("dropout"), "nll", 1000, prune=False).searches[0].key,
        searches(study("mc_dropout")).searches[0].key,
        searches(study("mc_dropout(K=10)")).searches[0].key,
    ]
    assert len(set(keys)) == len(keys)
    assert searches(study("dropout", seeds=[5, 6])).searches[0].key == keys[0], "the study's seeds do not matter"


def test_a_draw_from_a_tiny_range(make_run):
    """The float that TPE draws is rounded but stays in its range."""
    run: Run = make_run("dropout")
    search = Search(run, "dropout", {"p": FloatDistribution(0.1, 0.10004)}, {"p": 0.1}, "nll", True, METHODS, "dropout")
    assert 0.1 <= search.sample([])["p"] <= 0.10004
