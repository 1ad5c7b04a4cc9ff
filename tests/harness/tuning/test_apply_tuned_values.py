"""The file of tuned values: what is written, and how `--tuned` applies it to a study."""

import pytest
import yaml
from optuna.trial import TrialState, create_trial

from harness.parsing.yaml_errors import StudyError
from harness.planning.plan import Plan
from harness.studies.study import load
from harness.tuning.apply_tuned_values import apply_tuned_values
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_budget import Budget
from harness.tuning.tuned_values_file import read_tuned_values, tuned_entry, update_tuned_values
from methods import METHODS

BUDGET = Budget(20, 20.0)
LATE = "late_phase_bn(K=2)"


@pytest.fixture
def study(tmp_path, write_study, npz):
    def make(*methods, **changes):
        held_out = [{"name": f"npz:{npz}", "validation": 15, "corruptions": "none"}]
        return load(str(write_study(tmp_path / "s.yaml", **{"datasets": held_out, "methods": [*methods], **changes})))

    return make


def trial(search, number, state="finished", value=None, key="", cost=1.0, **values):
    end = {"state": state, "reason": "", "cost": cost}
    kind = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "refused": TrialState.PRUNED}
    made = create_trial(
        state=kind.get(state, TrialState.FAIL),
        params={**search.defaults, **values},
        distributions=search.space,
        value=value,
        user_attrs={"key": key or str(number), "expected": 1.0, "end": end},
    )
    made.number = number
    return made


def entries(study, seed=1000, **chosen):
    """Make an entry for each search, whose best trial has the chosen values."""
    found = []
    for search in find_searches(study, "nll", seed).searches:
        values = chosen.get(search.label, {})
        trials = [trial(search, 0, value=0.5), trial(search, 1, value=0.25, **values), trial(search, 2, "pruned")]
        found.append(tuned_entry(search, trials, BUDGET))
    return found


def write(tmp_path, study, **chosen):
    path = tmp_path / "tuned" / "s.yaml"
    update_tuned_values(path, study.name, tmp_path / "s.yaml", entries(study, **chosen), tmp_path / "lock")
    return path


def test_an_entry_has_the_chosen_values_and_how_they_were_found(study):
    (search,) = find_searches(study(f"swa({LATE})"), "nll", 1000).searches
    values = {"start": 0.9, "late_phase_bn.sigma0": 0.1}
    trials = [
        trial(search, 0, value=0.5),
        trial(search, 1, value=0.123456789, **values),
        *(trial(search, n, state) for n, state in enumerate(("pruned", "failed", "diverged", "refused"), 2)),
    ]
    entry = tuned_entry(search, trials, BUDGET)
    assert entry.key == ("rows validation=15", "lenet5", f"swa({LATE})")
    assert entry.values == {**search.defaults, **values}
    assert (entry.metric, entry.value, entry.default) == ("nll", 0.123457, 0.5)
    assert (entry.finished, entry.pruned, entry.failed, entry.refused) == (2, 1, 2, 1)
    assert (entry.cost, entry.trials, entry.trainings, entry.seed) == (6.0, 20, 20.0, 1000)
    assert entry.space["late_phase_bn.sigma0"] == "0.0 to 0.5"
    assert entry.versions == {name: METHODS[name].version for name in ("swa", "late_phase_bn")}
    assert entry.recipe == search.run.key[:12]
    assert entry.date == max(t.datetime_complete for t in trials).date().isoformat()
    assert tuned_entry(search, [trial(search, 0, "failed")], BUDGET) is None


def test_an_entry_has_the_budget_that_was_used(study):
    """With fifty trials done, a budget of five still chooses from fifty."""
    (search,) = find_searches(study("dropout"), "nll", 1000).searches
    trials = [trial(search, n, value=0.5 - n / 1000, p=0.05 + n / 200) for n in range(50)]
    asked = [(Budget(5, 5.0), 50, 50.0), (Budget(60, 5.0), 60, 50.0), (Budget(60, 70.0), 60, 70.0)]
    for budget, tried, cost in asked:
        entry = tuned_entry(search, trials, budget)
        assert (entry.trials, entry.trainings) == (tried, cost)
    swa = [trial(search, n, value=0.5 - n / 1000, p=0.05 + n / 200, cost=1.002) for n in range(20)]
    assert tuned_entry(search, swa, BUDGET).trainings == 20.0, "passes over the data do not count as a training"


def test_the_default_metric_is_that_of_the_last_retry(study):
    (search,) = find_searches(study("dropout"), "nll", 1000).searches
    trials = [
        trial(search, 0, "failed", key="own"),
        trial(search, 1, value=0.4, key="own"),
        trial(search, 2, value=0.3),
    ]
    assert tuned_entry(search, trials, BUDGET).default == 0.4


def test_written_values_stay_even_if_they_equal_the_default(tmp_path, study):
    plain = study({"pinned": "mc_dropout(K=10)"}, {"free": "mc_dropout"})
    path = write(tmp_path, plain, free={"K": 33, "p": 0.3}, pinned={"p": 0.4})
    listed = yaml.safe_load(path.read_text())["tuned"]
    assert [(entry["method"], entry["values"]) for entry in listed] == [
        ("mc_dropout", {"K": 33, "p": 0.3}),
        ("mc_dropout(K=10)", {"p": 0.4}),
    ]
    tuned = apply_tuned_values(plain, path)
    assert {cell.label: str(cell.run.method) for cell in tuned.cells()} == {
        "pinned": "mc_dropout(p=0.4)",
        "free": "mc_dropout(p=0.3, K=33)",
    }
    edit(path, lambda raw: raw["tuned"][1]["values"].update(K=33))
    with pytest.raises(StudyError, match=r"tuned\[1\].values: mc_dropout\(K=10\) already has K written out"):
        apply_tuned_values(plain, path)
    edit(path, lambda raw: raw["tuned"].pop(1))
    tuned = apply_tuned_values(plain, path)
    assert {cell.label: str(cell.run.method) for cell in tuned.cells()}["pinned"] == "mc_dropout"
    assert tuned.caption.endswith("Not tuned: pinned.")
    with pytest.raises(StudyError, match=r"tuned\[0\]: .* · mc_dropout: nothing in the study is trained in this way"):
        apply_tuned_values(study("mc_dropout(K=10)"), path)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"epochs": 4, "batch_size": 16, "lr": 0.05}},
        {"precision": "bfloat16"},
        {"overrides": [{"architecture": "lenet5", "recipe": {"lr": 0.1}}]},
    ],
)
def test_values_for_other_training_are_refused(tmp_path, study, changes):
    path = write(tmp_path, study("dropout", "swa"))
    apply_tuned_values(study("dropout", "swa", seeds=[3, 4], evaluate={"calibration_bins": 10}), path)
    with pytest.raises(StudyError) as caught:
        apply_tuned_values(study("dropout", "swa", **changes), path)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(": ")[1] for line in lines] == ["tuned[0].recipe", "tuned[1].recipe"]
    assert "dropout was tuned with other training: the data, the recipe, the precision or the method's code" in lines[0]
    assert lines[0].endswith("tune it again, or remove the entry")


def test_a_seed_of_the_study_is_refused(tmp_path, study):
    plain = study("dropout")
    path = tmp_path / "t.yaml"
    update_tuned_values(path, "s", tmp_path / "s.yaml", entries(plain, seed=5), tmp_path / "lock")
    apply_tuned_values(plain, path)
    with pytest.raises(
        StudyError, match=r"tuned\[0\].seed: dropout was tuned with seed 5, one of the study's own \(4, 5\)"
    ):
        apply_tuned_values(study("dropout", seeds=[4, 5]), path)


def test_entries_have_a_fixed_order_and_an_update_changes_one_entry_only(tmp_path, study):
    both = study("swa", "dropout")
    path = write(tmp_path, both, dropout={"p": 0.3})
    before = path.read_text()
    assert [entry["method"] for entry in yaml.safe_load(before)["tuned"]] == ["dropout", "swa"]
    assert before.startswith("# Written by `econ tune s`; used by `econ run s --tuned ")
    (dropout,) = [e for e in entries(both, dropout={"p": 0.35}) if e.method == "dropout"]
    update_tuned_values(path, "s", tmp_path / "s.yaml", [dropout], tmp_path / "lock")
    after = path.read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == [("    p: 0.3", "    p: 0.35")]
    later = dropout.model_copy(update={"date": "2000-01-01", "commit": "x"})
    update_tuned_values(path, "s", tmp_path / "s.yaml", [later], tmp_path / "lock")
    assert path.read_text() == after, "another date alone does not change the file"
    with pytest.raises(StudyError, match=r"holds the tuned values of study 's', not of 'other'"):
        update_tuned_values(path, "other", tmp_path / "s.yaml", [dropout], tmp_path / "lock")


def test_a_tuned_study_has_the_chosen_values_and_its_own_labels(tmp_path, study):
    plain = study("sgd", {"late": LATE}, f"deep_ensemble({LATE}, K=2)", "swa", seeds=[0, 1])
    path = write(tmp_path, plain, late={"start": 0.25, "sigma0": 0.1}, swa={"start": 0.5})
    tuned = apply_tuned_values(plain, path)
    assert tuned.name == "s · tuned"
    cells = {(cell.label, cell.run.seed): str(cell.run.method) for cell in tuned.cells()}
    late = "late_phase_bn(K=2, start=0.25, sigma0=0.1)"
    assert {label: text for (label, seed), text in cells.items() if seed == 1} == {
        "sgd": "sgd",
        "late": late,
        f"deep_ensemble({LATE}, K=2)": f"deep_ensemble({late}, K=2)",
        "swa": "swa(start=0.5)",
    }
    keys = {cell.label: cell.run.key for cell in tuned.cells() if cell.run.seed == 0}
    before = {cell.label: cell.run.key for cell in plain.cells() if cell.run.seed == 0}
    assert keys["sgd"] == before["sgd"], "a method that is not tuned has the same run"
    assert not {keys[name] for name in ("late", "swa")} & set(before.values())
    plan = Plan(tuned)
    assert set(plan.runs[keys[f"deep_ensemble({LATE}, K=2)"]].needs) <= set(plan.runs)
    assert keys["late"] in plan.runs[keys[f"deep_ensemble({LATE}, K=2)"]].needs, (
        "the members of the ensemble are the tuned runs"
    )


def test_the_caption_of_a_tuned_study(tmp_path, study):
    plain = study("sgd", {"late": LATE}, f"deep_ensemble({LATE}, K=2)", "swa", architectures=["lenet5", "wrn-10-1"])
    path = write(tmp_path, plain, late={"start": 0.25, "sigma0": 0.1}, swa={"start": 0.5})
    how = "NLL, at most 20 trials and 20 plain trainings a method, the study's own values in any case, seed 1000"
    names = [", ".join(entry["values"]) for entry in yaml.safe_load(path.read_text())["tuned"]]
    late, swa = names[0], names[-1]
    assert {"start", "sigma0"} <= set(late.split(", "))
    ensemble = f"deep_ensemble({LATE}, K=2)"
    end = f"Values: {path}. Not tuned: sgd."
    assert apply_tuned_values(plain, path).caption == (
        f"Tuned on validation data ({how}): late: {late}; {ensemble}: {late}; swa: {swa}. {end}"
    )
    raw = yaml.safe_load(path.read_text())
    raw["tuned"] = [e for e in raw["tuned"] if (e["method"], e["architecture"]) != ("swa", "wrn-10-1")]
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    but = "(not on rows validation=15 · wrn-10-1)"
    assert apply_tuned_values(plain, path).caption == (
        f"Tuned on validation data ({how}): late: {late}; {ensemble}: {late}; swa {but}: {swa}. {end}"
    )
    raw["tuned"][0]["trials"] = 5
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    less = how.replace("20 trials", "5 trials")
    assert apply_tuned_values(plain, path).caption == (
        f"Tuned on validation data ({less}): late: {late}; {ensemble}: {late}. Tuned on validation data ({how}): "
        f"late: {late}; {ensemble}: {late}; swa {but}: {swa}. {end}"
    )


def edit(path, change):
    raw = yaml.safe_load(path.read_text())
    change(raw)
    path.write_text(yaml.safe_dump(raw, sort_keys=False))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw["tuned"][0].update(dataset="cifar10"), "tuned[0]: cifar10 · lenet5 · dropout: nothing in the"),
        (lambda raw: raw["tuned"][0].update(method="dropuot"), "tuned[0].method: unknown method 'dropuot'"),
        (
            lambda raw: raw["tuned"][0].update(method="mc_dropout", versions={"mc_dropout": 1}),
            "nothing in the study is",
        ),
        (lambda raw: raw["tuned"][0].update(values={"q": 0.1}), "tuned[0].values: dropout has no hyperparameter 'q'"),
        (lambda raw: raw["tuned"][0].update(values={"p": 7}), "tuned[0].values: dropout: p = 7"),
        (
            lambda raw: raw["tuned"][0].update(versions={"dropout": 7}),
            "tuned[0].versions: dropout was tuned at versions {'dropout': 7}; "
            "they are now {'dropout': 1}: tune it again",
        ),
        (lambda raw: raw["tuned"].append(raw["tuned"][0]), "tuned[2]: rows validation=15 · lenet5 · dropout: there is"),
        (lambda raw: raw["tuned"][1].update(values={"start": 0.1, "ratio": None, "rate": "cyclic"}), "tuned[1].values"),
        (lambda raw: raw["tuned"][0].pop("seed"), "tuned[0]: 'seed' is missing"),
        (lambda raw: raw["tuned"][0].update(luck=1), "tuned[0].luck: unknown key"),
    ],
)
def test_an_entry_that_does_not_match_is_an_error_with_its_location(tmp_path, study, change, reason):
    plain = study("swa", "dropout")
    path = write(tmp_path, plain)
    edit(path, change)
    with pytest.raises(StudyError) as caught:
        apply_tuned_values(plain, path)
    message = str(caught.value)
    assert reason in message
    line = message.splitlines()[1].strip()
    assert line.startswith(f"{path}:")
    assert line.split(":")[1].isdigit()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file; `econ tune` writes it"),
        ("[1, 2]", "expected a mapping with the keys study, tuned"),
        ("a: [", "not readable as YAML"),
        ("study: s\nstudy: s\ntuned: []\n", "this key is written twice"),
    ],
)
def test_invalid_files_are_refused(tmp_path, text, reason):
    path = tmp_path / "t.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StudyError, match=reason):
        read_tuned_values(path)
