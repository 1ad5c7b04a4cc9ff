"""Tests of rehearsals, which are studies at a small scale."""

import math

import pytest

from harness.parsing.yaml_errors import StudyError
from harness.planning.plan import Plan
from harness.studies.grid import load_recipes
from harness.studies.rehearsal import rehearse, rehearse_quadratic
from harness.studies.run import DatasetSpec
from harness.studies.scale import TINY, Scale, read_scale, scale_dataset, scale_recipe
from harness.studies.study import load
from methods.core.recipe import Recipe

pytestmark = pytest.mark.long

STUDY = """\
datasets:
  - {name: cifar10, ood: [svhn], corruptions: official, validation: 5000}
  - {name: digits}
architectures: [wrn-28-10, wrn-28-14]
seeds: [3, 4, 5]
recipe: late-phase/sgd
overrides: [{dataset: digits, recipe: {epochs: 100, schedule: {kind: constant}}}]
evaluate: {path: {points: 21}, plane: {points: 21}, flatness: true}
methods:
  - Late: late_phase_bn(K=10, start=0.6, member_weight_decay=0.005)
  - Twice: deep_ensemble(swa(late_phase_bn(K=2, start=0.5), start=0.8), K=10)
  - Line: line
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "s.yaml"
    path.write_text(STUDY)
    return load(str(path))


def of(study, dataset, architecture, label):
    places = {place.name: place for place in study.cell_groups()}
    return next(p for (d, a, name), p in places.items() if (d, a, name) == (dataset, architecture, label))


def test_tiny(study):
    small = rehearse(study, TINY)
    assert small.name == "s · rehearsal"
    assert small.banner == (
        "Rehearsal, not a result: at most 4 epochs, at most 64 training examples, all of digits, networks 0.1 times as "
        "wide, wrn-10s in place of larger residual networks, at most 3 members, at most 2 seeds, synthetic data, fewer "
        "points around networks."
    )
    assert [p.name for p in small.cell_groups()][::3] == [
        ("synthetic:cifar10 train=64 validation=64", "wrn-10-1", "Late"),
        ("synthetic:cifar10 train=64 validation=64", "wrn-10-2", "Late"),
        ("digits", "wrn-10-1", "Late"),
        ("digits", "wrn-10-2", "Late"),
    ]
    late, twice, line = (p.run(3) for p in list(small.cell_groups())[:3])
    assert str(late.method) == "late_phase_bn(K=3, member_weight_decay=0.005)"
    assert str(twice.method) == "deep_ensemble(swa(late_phase_bn(K=2, start=0.5)), K=3)"
    assert late.recipe.epochs == 4 and [late.recipe.learning_rate(e) for e in (2, 3)] == pytest.approx([0.1, 0.0505])
    assert (late.recipe.batch_size, late.seed) == (16, 3)
    assert (late.dataset.name, late.dataset.corruptions, late.dataset.ood) == (
        "synthetic:cifar10",
        "generated",
        ("svhn",),
    )
    assert (line.evaluate.path.points, line.evaluate.plane.points, line.evaluate.flatness.draws) == (5, 3, 2)
    assert {cell.run.seed for cell in small.cells()} == {3, 4}
    assert of(small, "digits", "wrn-10-1", "Line").run(0).recipe.epochs == 2  # 100 of 200 epochs


def test_a_rehearsal_has_the_cell_groups_of_its_study_in_order(study):
    written = [p.name[1:] for p in study.cell_groups()]
    small = [p.name[1:] for p in rehearse(study, TINY).cell_groups()]
    widths = {"wrn-28-10": "wrn-10-1", "wrn-28-14": "wrn-10-2"}  # 1.4 is 1, which is taken
    assert small == [(widths[architecture], label) for architecture, label in written]


def test_only_what_is_asked_for_is_changed(study):
    small = rehearse(study, Scale(seeds=1))
    assert small.cells()[0].run.model_copy(update={"evaluate": study.cells()[0].run.evaluate}) == study.cells()[0].run
    assert {cell.run.seed for cell in small.cells()} == {3}
    assert small.banner == "Rehearsal, not a result: at most 1 seed, fewer points around networks."


def test_whole_epochs_become_fractions(tmp_path):
    path = tmp_path / "s.yaml"
    text = "datasets: [digits]\narchitectures: [lenet5]\nseeds: [0]\nrecipe: late-phase/sgd\nmethods:\n"
    path.write_text(text + "  - a: late_phase_last_layer(K=2, start=120)\n  - b: swa(branched(start=100), start=160)\n")
    a, b = rehearse(load(str(path)), Scale(epochs=10)).cells()
    assert (str(a.run.method), str(b.run.method)) == ("late_phase_last_layer(K=2)", "swa(branched)")
    plan = Plan(rehearse(load(str(path)), Scale(epochs=10)), share=True)
    assert {planned.epochs for planned in plan.runs.values() if planned.role == "trunk"} >= {5}


def test_lists_of_epochs_become_even(tmp_path):
    path = tmp_path / "s.yaml"
    text = "datasets: [digits]\narchitectures: [lenet5]\nseeds: [0]\nrecipe: late-phase/sgd\nmethods:\n"
    path.write_text(text + "  - snapshot(M=3, ends=[100, 120, 200])\n")
    (cell,) = rehearse(load(str(path)), TINY).cells()
    assert str(cell.run.method) == "snapshot(M=3)"


def test_real_images_of_every_class_stay():
    small = scale_dataset(DatasetSpec(name="cifar100", corruptions="none"), Scale(subset=64))
    assert small.train_size == 100
    small = scale_dataset(DatasetSpec(name="cifar10", corruptions="none"), Scale(subset=64))
    assert small.train_size == 64


@pytest.mark.parametrize("name", sorted(load_recipes()))
@pytest.mark.parametrize("epochs", [4, 20])
def test_every_recipe_can_be_shortened(name, epochs):
    recipe = Recipe.model_validate(load_recipes()[name])
    small = scale_recipe(recipe, epochs / recipe.epochs, Scale(epochs=epochs))
    slack = len(recipe.schedule.stages) if recipe.schedule.kind == "stages" else 1  # each stage keeps an epoch or more
    assert abs(small.epochs - epochs) <= slack
    at = [(i + 0.5) / epochs for i in range(epochs)]
    rates, expected = (
        [small.learning_rate(x * small.epochs) for x in at],
        [recipe.learning_rate(x * recipe.epochs) for x in at],
    )
    assert max(rates) <= recipe.lr and min(rates) >= min(expected) * 0.01


def test_stages_are_shortened_one_by_one():
    cosine = {"kind": "cosine", "warmup": 5}
    schedule = {"kind": "stages", "stages": [{"epochs": 20, "schedule": cosine}, {"epochs": 20, "ratio": 0.1}]}
    recipe = Recipe.model_validate({"epochs": 40, "lr": 0.4, "schedule": schedule})
    small = scale_recipe(recipe, 0.2, Scale(epochs=8))
    expected = [0.4 * 1, *(0.2 * (1 + math.cos(math.pi * i / 3)) for i in range(3)), *4 * [0.04]]
    assert [small.learning_rate(epoch) for epoch in range(8)] == pytest.approx(expected)


def test_full_length_is_the_recipe_itself():
    for name, values in load_recipes().items():
        recipe = Recipe.model_validate(values)
        small = scale_recipe(recipe, 1.0, Scale())
        assert [small.learning_rate(e) for e in range(recipe.epochs)] == [
            recipe.learning_rate(e) for e in range(recipe.epochs)
        ], name


def test_methods_that_need_epochs_get_them(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "datasets: [cifar10]\narchitectures: [lenet5]\nseeds: [0]\nrecipe: late-phase/swa\n"
        "methods: ['swag(start=160)']\n"
    )
    small = rehearse(load(str(path)), TINY)
    assert small.cells()[0].run.recipe.epochs == 10 and "at most 10 epochs" in small.banner
    with pytest.raises(StudyError, match=r"does not fit into --scale epochs=4:\n  swag on lenet5: .*two states"):
        rehearse(load(str(path)), Scale(epochs=4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("small", "small: there are epochs, subset, width, members, seeds, data, and tiny"),
        ("epochs=0", "epochs=0: Input should be greater than or equal to 1"),
        ("width=1.5", "width=1.5: Input should be less than or equal to 1"),
        ("epochs=4,width=x", "width=x: Input should be a valid number"),
        ("data=real", "data=real: Input should be 'made'"),
        ("epochs=4,epochs=2", "expected tiny, or values like epochs=4,subset=64, each of them once"),
        ("", "expected tiny, or values"),
        ("epochs", "epochs=: Input should be a valid integer"),
    ],
)
def test_what_is_no_scale(text, message):
    with pytest.raises(StudyError, match=f"^--scale '?{text}'?: {message}"):
        read_scale(text)


def test_a_scale_is_read_as_it_is_written():
    assert read_scale("tiny") == TINY
    assert read_scale(str(TINY)) == TINY
    assert read_scale("epochs=8, width=0.5") == Scale(epochs=8, width=0.5)


def test_synthetic_data_have_two_names():
    both = [read_scale(f"epochs=4,data={name}") for name in ("made", "synthetic")]
    assert both == [Scale(epochs=4, data="made")] * 2
    assert [str(scale) for scale in both] == ["epochs=4,data=made"] * 2


def test_the_noisy_quadratic_problem_in_fewer_dimensions():
    study = load("late-phase/figure-1")
    small = rehearse_quadratic(study, TINY)
    assert small.name == "late-phase/figure-1 · rehearsal"
    assert {(run.n, run.iterations, run.average, run.seeds) for run in small.runs} == {(10, 4000, 2000, (0, 1))}
    assert small.banner == "Rehearsal, not a result: 10 dimensions, 4,000 iterations, 2 seeds."
    assert not {run.key for run in small.runs} & {run.key for run in study.runs}
    fewer = rehearse_quadratic(study, Scale(seeds=3))
    assert fewer.banner == "Rehearsal, not a result: 100 dimensions, 40,000 iterations, 3 seeds."
    assert [run.model_copy(update={"seeds": r.seeds}) for run, r in zip(fewer.runs, study.runs, strict=True)] == list(
        study.runs
    )
    with pytest.raises(StudyError, match="--scale epochs=4,members=2,seeds=10 changes nothing of study late-phase/fig"):
        rehearse_quadratic(study, Scale(epochs=4, members=2, seeds=10))


@pytest.mark.parametrize(
    "scale",
    [TINY, Scale(epochs=8, subset=500), Scale(subset=500, width=0.5, members=3, seeds=1), Scale(data="made", epochs=9)],
)
def test_runs_of_a_rehearsal_are_other_runs(study, scale):
    keys = {cell.run.key for cell in study.cells()}
    assert not keys & {cell.run.key for cell in rehearse(study, scale).cells()}


def test_runs_that_a_rehearsal_leaves_as_they_are_stay_the_same_runs(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.replace("evaluate:", "# evaluate:"))
    whole = load(str(path))
    few = rehearse(whole, Scale(seeds=2, epochs=1000))
    assert [cell.run.key for cell in few.cells()] == [cell.run.key for cell in whole.cells() if cell.run.seed < 5]


PLUGIN = """\
from methods import Method


class Long(Method):
    \"\"\"Needs ten epochs.\"\"\"

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        if recipe.epochs < 10:
            raise ValueError(f"rates [0, 1]: {recipe.epochs} epochs are too few")
"""


def test_all_reasons_why_a_study_does_not_fit_are_reported(tmp_path):
    (tmp_path / "long.py").write_text(PLUGIN)
    path = tmp_path / "s.yaml"
    path.write_text(
        "plugins: [long.py]\ndatasets: [digits]\narchitectures: [lenet5]\nseeds: [0]\nrecipe: {epochs: 20}\n"
        "methods: [long]\n"
    )
    with pytest.raises(StudyError, match=r":\n  long on lenet5: rates \[0, 1\]: 4 epochs are too few$"):
        rehearse(load(str(path)), Scale(epochs=4))


def test_the_command_line_labels_a_rehearsal(run_here, write_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "s.yaml", methods=["sgd", "swa"], seeds=[0, 1])
    runs = ("--runs", tmp_path / "runs")
    small = ("--scale", "epochs=2,seeds=1", *runs)
    assert run_here("run", "s.yaml", *small)[0] == 0
    said = "Rehearsal, not a result: at most 2 epochs, at most 1 seed."
    for command in ("leaderboard", "table"):
        code, printed, _ = run_here(command, "s.yaml", *small)
        assert code == 0 and said in " ".join(printed.split())
    assert run_here("report", "s.yaml", *small, "--output", "r.html")[0] == 0
    assert said in (tmp_path / "r.html").read_text()
    code, _, wrong = run_here("leaderboard", "s.yaml", *runs)
    assert code != 0 and "no study 's'" in wrong
    code, _, wrong = run_here("run", "s.yaml", "--scale", "tiny", "--tuned", "t.yaml")
    assert code != 0 and wrong
