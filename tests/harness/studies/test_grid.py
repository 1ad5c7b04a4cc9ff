"""Tests of studies with several grids, and of recipes given by name."""

import pytest

from harness.parsing.yaml_errors import StudyError
from harness.studies.grid import load_recipes
from harness.studies.study import load
from methods.core.recipe import Recipe

TWO = """\
datasets: [digits]
architectures: [lenet5]
seeds: [0, 1]
recipe: {epochs: 3, batch_size: 32}
grids:
  - methods: [sgd]
  - methods: [swa, late: late_phase_last_layer(K=2)]
    recipe: {epochs: 4}
    seeds: [5]
"""


def write(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return str(path)


def errors_of(tmp_path, text):
    with pytest.raises(StudyError) as error:
        load(write(tmp_path, text))
    return [line.split("s.yaml:")[1] for line in str(error.value).splitlines()[1:]]


def test_a_grid_takes_what_it_lacks_from_the_study(tmp_path):
    cells = load(write(tmp_path, TWO)).cells()
    found = [(cell.label, cell.run.seed, cell.run.recipe.epochs, cell.run.recipe.batch_size) for cell in cells]
    assert found == [("sgd", 0, 3, 32), ("sgd", 1, 3, 32), ("swa", 5, 4, 128), ("late", 5, 4, 128)]
    assert {cell.run.architecture for cell in cells} == {"lenet5"}


def test_one_grid_gives_the_runs_of_a_flat_study(tmp_path):
    flat = TWO.split("grids")[0] + "methods: [sgd]\n"
    several = TWO.split("  - methods: [swa")[0]
    assert [c.run.key for c in load(write(tmp_path, flat)).cells()] == [
        c.run.key for c in load(write(tmp_path, several)).cells()
    ]


def test_errors_have_the_location_where_they_were_written(tmp_path):
    text = TWO.replace("seeds: [5]", "seeds: [-5]").replace("[swa,", "[swa(q=1),").replace("lenet5", "lenet6")
    architecture, seed, method = sorted(errors_of(tmp_path, text))
    assert architecture.startswith("2: architectures[0]: unknown architecture 'lenet6'")
    assert method.startswith("9: grids[1].seeds[0]: Input should be greater")
    assert seed.startswith("7: grids[1].methods[0]: swa has no hyperparameter 'q'")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[swa,", "[sgd,"), "7: grids[1]: digits · lenet5 · sgd stands in another grid already"),
        (("grids:", "gris:"), "5: gris: unknown key"),
        (("    seeds: [5]", "    paper: {}"), "9: grids[1].paper: unknown key"),
        (("recipe: {epochs: 4}", "recipe: late-phase/sdg"), "8: grids[1].recipe: unknown recipe 'late-phase/sdg'; did"),
    ],
)
def test_what_does_not_fit_together(tmp_path, change, expected):
    assert errors_of(tmp_path, TWO.replace(*change))[0].startswith(expected)


def test_grids_must_not_be_empty(tmp_path):
    assert errors_of(tmp_path, TWO.split("grids")[0] + "methods: [sgd]\ngrids: []\n")[0].startswith("6: grids: List")


def test_a_plugin_joins_the_first_grid_once(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from methods import Method\n\nclass Mine(Method):\n    '''Mine.'''\n\nMETHODS = {'mine': Mine}\n"
    )
    labels = [cell.label for cell in load(write(tmp_path, TWO), [plugin]).cells()]
    assert labels.count("mine") == 2  # seeds 0 and 1
    named = load(write(tmp_path, TWO.replace("[swa,", "[mine,")), [plugin]).cells()
    assert [cell.run.seed for cell in named if cell.label == "mine"] == [5]


def test_a_recipe_by_name_is_its_values(tmp_path):
    named = load(write(tmp_path, TWO.replace("recipe: {epochs: 4}", "recipe: late-phase/sgd")))
    assert named.cells()[-1].run.recipe == Recipe.model_validate(load_recipes()["late-phase/sgd"])
    changed = TWO.replace("recipe: {epochs: 4}", "recipe: {base: late-phase/sgd, lr: 0.5}")
    recipe = load(write(tmp_path, changed)).cells()[-1].run.recipe
    assert (recipe.lr, recipe.epochs, recipe.learning_rate(180)) == (0.5, 200, pytest.approx(0.005))


def test_an_override_takes_a_recipe_by_name(tmp_path):
    text = TWO.split("grids")[0] + "methods: [sgd]\noverrides: [{architecture: lenet5, recipe: subspaces/cifar}]\n"
    recipe = load(write(tmp_path, text)).cells()[0].run.recipe
    assert recipe == Recipe.model_validate(load_recipes()["subspaces/cifar"])


def test_a_named_recipe_of_an_override_replaces_the_grids(tmp_path):
    """Nothing of the replaced recipe remains, neither its optimizer nor its initial weights."""
    text = "datasets: [digits]\narchitectures: [lenet5]\nseeds: [0]\nrecipe: late-phase/lstm\nmethods: [sgd]\n"
    named = text + "overrides: [{architecture: lenet5, recipe: late-phase/sgd}]\n"
    assert load(write(tmp_path, named)).cells()[0].run.recipe == Recipe.model_validate(load_recipes()["late-phase/sgd"])
    changed = text + "overrides: [{architecture: lenet5, recipe: {lr: 0.5}}]\n"
    recipe = load(write(tmp_path, changed)).cells()[0].run.recipe
    assert (recipe.optimizer, recipe.lr) == ("adam", 0.5)


# name, epochs, {position: rate}, nesterov, decay: the recipes of the papers, from their texts.
STATED = [
    ("late-phase/sgd", 200, {0: 0.1, 100: 0.1, 140: 0.0505, 180: 0.001, 199: 0.001}, True, 5e-4),
    ("late-phase/swa", 200, {80: 0.1, 112: 0.075, 144: 0.05, 199: 0.05}, True, 5e-4),
    ("late-phase/swa-300", 300, {80: 0.1, 160: 0.075, 240: 0.05, 299: 0.05}, True, 5e-4),
    ("late-phase/constant", 200, {0: 0.1, 199: 0.1}, True, 5e-4),
    ("late-phase/convnet", 200, {100: 0.1, 160: 0.001}, True, 5e-4),
    ("late-phase/pretrained", 220, {0: 0.1, 180: 0.001, 200: 0.01, 205: 0.0055, 210: 0.001, 219: 0.001}, True, 5e-4),
    ("late-phase/imagenet", 20, {0: 0.001, 9: 0.001, 10: 0.0001}, False, 1e-4),
    ("late-phase/lstm", 50, {0: 0.001, 49: 0.001}, True, 0.0),
    ("late-phase/batch-ensemble", 250, {0: 0.0, 0.5: 0.05, 1: 0.1, 100: 0.02, 200: 0.004, 225: 0.0008}, True, 6e-4),
    ("hypernetworks/sgd", 200, {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}, True, 5e-4),
    ("hypernetworks/asgd", 200, {80: 0.1, 120: 0.075, 160: 0.05, 199: 0.05}, True, 5e-4),
    ("hypernetworks/asgd-300", 300, {80: 0.1, 240: 0.05, 299: 0.05}, True, 5e-4),
    ("hypernetworks/asgd-300-low", 300, {80: 0.1, 240: 0.01}, True, 5e-4),
    ("hypernetworks/asgd-low", 200, {80: 0.1, 160: 0.01}, True, 5e-4),
    ("hypernetworks/nsgd", 200, {80: 0.1, 190: 0.001, 199: 0.001}, True, 5e-4),
    ("subspaces/cifar", 160, {0: 0.02, 4: 0.1, 5: 0.1, 82: 0.0505067}, False, 1e-4),
    ("subspaces/imagenet-200", 200, {0: 0.02, 5: 0.1}, False, 5e-5),
]


@pytest.mark.parametrize(("name", "epochs", "rates", "nesterov", "decay"), STATED)
def test_the_recipes_are_the_papers(name, epochs, rates, nesterov, decay):
    recipe = Recipe.model_validate(load_recipes()[name])
    assert (recipe.epochs, recipe.nesterov, recipe.weight_decay) == (epochs, nesterov, decay)
    for epoch, rate in rates.items():
        assert recipe.learning_rate(epoch) == pytest.approx(rate, rel=1e-5)
    assert recipe.batch_size == (256 if "imagenet" in name else 128)
