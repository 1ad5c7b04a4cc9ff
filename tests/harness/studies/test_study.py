"""Tests that all errors of a study are reported at once, with their locations, before anything starts."""

import numpy as np
import pytest

from data import dataset_names
from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.yaml_errors import StudyError
from harness.studies.study import load
from harness.studies.study_files import STUDIES, find_study, study_names
from methods import METHODS
from methods.core.recipe import Linear
from models import architecture_names

GOLDEN = """\
description: what can be wrong
datasets:
  - digits
  - mnits
  - {name: digits, train_size: 5000}
  - {name: digits, trainsize: 3}
  - npz:nowhere.npz
  - npz:broken.npz
architectures: [lenet5, lenet6]
seeds: [0, -1, one]
recipe:
  epochs: 4
  lr: 0
  momentum: fast
  schedule: {kind: linear, start: 0.5, stop: 0.9}
  lr: 0
methods:
  - {mine: swe}
  - swa(late_phase_bn(K=2), start=9)
  - late_phase_bn(starts=2, K=few)
  - [sgd]
  - dropout(p=2)
overrides:
  - {dataset: cifar10, recipe: {lr: 0.1}}
  - {architecture: lenet5, recipe: {epochs: none, colour: red}}
precision: float16
methdos: [sgd]
"""
GOLDEN_ERRORS = f"""\
22 errors in the study; nothing was started
  s.yaml:16: recipe.lr: this key is written twice
  s.yaml:6: datasets[3].trainsize: unknown key
  s.yaml:18: methods[0]: unknown method 'swe'; did you mean 'swa'? there are {", ".join(sorted(METHODS))}
  s.yaml:20: methods[2]: late_phase_bn has no hyperparameter 'starts'; did you mean 'start'? there are \
{", ".join(sorted(hyperparameters(METHODS["late_phase_bn"])))}; late_phase_bn: K = 'few': \
Input should be a valid integer, unable to parse string as an integer
  s.yaml:21: methods[3]: expected a method like swa(late_phase_bn(K=5), start=0.8), or one pair label: method
  s.yaml:22: methods[4]: dropout: p = 2: Input should be less than 1
  s.yaml:10: seeds[1]: Input should be greater than or equal to 0
  s.yaml:10: seeds[2]: Input should be a valid integer, unable to parse string as an integer
  s.yaml:16: recipe.lr: Input should be greater than 0
  s.yaml:15: recipe.schedule.stop: unknown key
  s.yaml:14: recipe.momentum: Input should be a valid number, unable to parse string as a number
  s.yaml:26: precision: Input should be 'float32' or 'bfloat16'
  s.yaml:27: methdos: unknown key
  s.yaml:24: overrides[0].dataset: 'cifar10' is not in this study; there are digits, mnits, npz:broken.npz, \
npz:nowhere.npz
  s.yaml:25: overrides[1].recipe.epochs: Input should be a valid integer, unable to parse string as an integer
  s.yaml:25: overrides[1].recipe.colour: unknown key
  s.yaml:19: methods[1]: swa(late_phase_bn(K=2), start=9) on lenet5: start 9 is epoch 9, but training has only \
epochs 0 to 3
  s.yaml:9: architectures[1]: unknown architecture 'lenet6': known are {", ".join(architecture_names())}; \
did you mean 'lenet5'?
  s.yaml:4: datasets[1]: unknown dataset 'mnits': known are \
{", ".join(dataset_names())}; did you mean 'mnist'?
  s.yaml:5: datasets[2]: digits: cannot keep train_size=5000 training images; after holding out validation images \
there are 400, so 1 to 400 are possible
  s.yaml:7: datasets[4]: nowhere.npz: no such file, expected a .npz file with x_train, y_train, x_test, y_test
  s.yaml:8: datasets[5]: broken.npz: 3 problem(s)
  x_train: found float64 (2, 8, 8), expected uint8 images (N, H, W) or (N, H, W, C) with H = W, C 1 or 3, N at least \
1; scale to 0…255 and convert
  x_test: missing, the file holds x_train, y_train
  y_test: missing, the file holds x_train, y_train
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The path of a study, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "s.yaml"


def errors_of(path, text, plugins=()):
    """The errors of a study that must be refused, without the file's name."""
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        load(str(path), plugins)
    head, *lines = str(caught.value).replace(f": {path.parent}/", ": ").splitlines()
    assert head == f"{len(lines)} error{'s' * (len(lines) > 1)} in the study; nothing was started"
    return [line.strip().removeprefix(f"{path}:").strip() for line in lines]


def test_all_errors_at_once(path):
    np.savez("broken.npz", x_train=np.zeros((2, 8, 8)), y_train=np.arange(2))
    path.write_text(GOLDEN)
    with pytest.raises(StudyError) as caught:
        load("s.yaml")
    assert sorted(str(caught.value).splitlines()) == sorted(GOLDEN_ERRORS.splitlines())
    assert str(caught.value).splitlines()[0] == GOLDEN_ERRORS.splitlines()[0]


BASE = """\
datasets: [digits]
architectures: [lenet5]
seeds: [0]
recipe: {epochs: 4}
methods: [sgd]
"""


def base(**changes):
    """A minimal study, with some lines replaced and others added at the end."""
    lines = dict(line.split(": ", 1) for line in BASE.splitlines())
    return "".join(f"{key}: {value}\n" for key, value in (lines | changes).items() if value is not None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"methods": "[swe, swa(start=9)]"}, ["5: methods[0]: unknown method 'swe'", "5: methods[1]: swa(start=9) on"]),
        ({"datasets": "[3, mnits]"}, ["1: datasets[0]: ", "1: datasets[1]: unknown dataset 'mnits'"]),
        ({"architectures": "[[], lenet7]"}, ["2: architectures[0]: ", "2: architectures[1]: unknown architecture"]),
        (
            {"overrides": "[3, {architecture: x, recipe: {}}]"},
            ["6: overrides[0]: ", "6: overrides[1].architecture: 'x' is not in this study; there are lenet5"],
        ),
        ({"recipe": "{epochs: four}"}, ["4: recipe.epochs: Input should be a valid integer"]),
        ({"recipe": "{lr: 0.1}"}, ["4: recipe: 'epochs' is missing"]),
        ({"recipe": "{epochs: 4, lr: -1e-3}"}, ["4: recipe.lr: Input should be greater than 0"]),
        ({"recipe": "{epochs: 4, lr: .nan}"}, ["4: recipe.lr: Input should be a finite number"]),
        ({"recipe": "{epochs: 4, lr: .inf}"}, ["4: recipe.lr: Input should be a finite number"]),
        ({"recipe": "{epochs: 0}"}, ["4: recipe.epochs: Input should be greater than or equal to 1"]),
        ({"recipe": "{epochs: 4, schedule: {kind: zigzag}}"}, ["4: recipe.schedule: Input tag 'zigzag'"]),
        ({"recipe": "{epochs: 4, schedule: step}"}, ["4: recipe.schedule: "]),
        ({"seeds": "[one]", "methods": "[swa(start=9)]"}, ["3: seeds[0]: ", "5: methods[0]: swa(start=9) on lenet5"]),
        ({"seeds": "[]"}, ["3: seeds: List should have at least 1 item"]),
        ({"seeds": "3"}, ["3: seeds: Input should be a valid list"]),
        ({"methods": "sgd"}, ["5: methods: Input should be a valid list"]),
        ({"methods": None}, [" 'methods' is missing"]),
        ({"methods": "[{a: sgd, b: swa}]"}, ["5: methods[0]: expected a method like"]),
        ({"methods": "[snapshot(M=5)]"}, ["5: methods[0]: snapshot on lenet5: M = 5 cycles do not fit into 4 epochs"]),
        (
            {"methods": "[deep_ensemble(K=2), swa(deep_ensemble)]"},
            ["5: methods[1]: swa(deep_ensemble) on lenet5: SWA cannot be made of DeepEnsemble, which trains no"],
        ),
        ({"methods": "[{a: swa}, {a: sgd}]"}, ["5: methods[1]: the label 'a' is that of swa already"]),
        ({"methods": "[sgd, sgd]"}, ["5: methods[1]: sgd is listed already"]),
        ({"methods": "['swa(start=0.9, start=0.8)']"}, ["5: methods[0]: swa: start is written twice"]),
        ({"plugins": "mine.py"}, ["6: plugins: Input should be a valid list"]),
        ({"plugins": "[3]"}, ["6: plugins[0]: Input is not a valid path"]),
        ({"plugins": "[mine.py]"}, ["6: plugins: plugin "]),
        ({"datasets": "[{name: digits, train_size: 0}]"}, ["1: datasets[0].train_size: Input should be greater"]),
        ({"datasets": "['npz:']"}, ["1: datasets[0]: dataset 'npz:': a path must follow"]),
        ({"overrides": "[{recipe: {lr: 0}}]"}, ["6: overrides[0].recipe.lr: Input should be greater than 0"]),
        ({"overrides": "[{dataset: digits}]"}, ["6: overrides[0]: 'recipe' is missing"]),
        ({"precision": "float16"}, ["6: precision: Input should be 'float32' or 'bfloat16'"]),
        ({"1": "2"}, ["6: 1: unknown key"]),
    ],
)
def test_each_error(path, changes, expected):
    found = errors_of(path, base(**changes))
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start.strip()), found


def test_a_network_that_refuses_the_size_of_the_images(path):
    np.savez(
        "small.npz",
        x_train=np.zeros((4, 3, 3), np.uint8),
        y_train=np.arange(4) % 2,
        x_test=np.zeros((2, 3, 3), np.uint8),
        y_test=np.arange(2),
    )
    assert errors_of(path, base(datasets="[digits, npz:small.npz]")) == [
        "2: architectures[0]: lenet5 needs images of at least 4 x 4 pixels, got 3 x 3"
    ]


def test_a_file_that_is_no_npz(path):
    (path.parent / "x.npz").write_text("no")
    assert errors_of(path, base(datasets="[npz:x.npz]")) == [
        "1: datasets[0]: x.npz: found something that is not a .npz file; write it with numpy.savez"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with the keys description, plugins"),
        ("# nothing\n", "expected a mapping"),
        ("- sgd\n", "expected a mapping"),
        ("sgd", "expected a mapping"),
        ("a: [", "not readable as YAML: while parsing"),
        ("a: 1\n\tb: 2", "not readable as YAML"),
        (
            "methods: !!python/object/apply:os.system ['touch hacked']\n",
            "1: the tag !!python/object/apply:os.system: only",
        ),
        ("methods: !!python/name:os.system\n", "1: the tag !!python/name:os.system: only plain values are read"),
        ("? [a]\n: 1\n", "not readable as YAML"),
    ],
)
def test_what_is_no_study(path, text, message):
    path.write_text(text)
    with pytest.raises(StudyError, match=rf"^{path}: ?{message}"):
        load(str(path))
    assert not (path.parent / "hacked").exists()


def test_a_file_that_is_no_text(path):
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(StudyError, match=r"not readable as YAML: 'utf-8' codec can't decode"):
        load(str(path))


def test_a_list_that_holds_itself(path):
    path.write_text(base(methods="&x [*x, sgd]"))
    with pytest.raises(StudyError, match=rf"^{path}:5: \*x stands for nothing that was written before it$"):
        load(str(path))


def test_unknown_studies(path):
    for name, meant in {
        "digts": "'digits'",
        "late-phase/tabel-2": "'late-phase/table-2'",
        "table-4": "'hypernetworks/table-4' or 'late-phase/table-4'",
        "figure-21": "'subspaces/figure-21'",
    }.items():
        with pytest.raises(
            StudyError,
            match=rf"^unknown study '{name}'; did you mean {meant}\? there are .*digits.*, or give the path of ",
        ):
            find_study(name)
    with pytest.raises(StudyError, match=r"^study nowhere.yaml: no such file$"):
        find_study("nowhere.yaml")


QUICK = ("digits", "landscape")
"""Studies that the quick tests load; test_known_keys.py plans others."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in study_names()]
)
def test_the_studies_that_come_along_are_valid(name):
    assert STUDIES / f"{name}.yaml" == find_study(name)
    needs_file = "npz:" in find_study(name).read_text()
    if not needs_file:
        assert load(name).cells()


# --- what a valid study means ---------------------------------------------------------------------------------


def test_the_grid(path):
    path.write_text(
        base(
            datasets="[digits, {name: digits, train_size: 50}]",
            architectures="[lenet5, wrn-10-1]",
            seeds="[3, 1]",
            methods="[sgd, {averaged: 'swa(start=1)'}]",
        )
    )
    study = load(str(path))
    cells = study.cells()
    assert study.name == "s"
    assert len(cells) == 16
    assert [cell.run.seed for cell in cells] == 8 * [3] + 8 * [1]
    assert [cell.run.dataset.label for cell in cells[:8]] == 4 * ["digits"] + 4 * ["digits train=50"]
    assert [cell.run.architecture for cell in cells[:4]] == ["lenet5", "lenet5", "wrn-10-1", "wrn-10-1"]
    assert [(cell.label, str(cell.run.method)) for cell in cells[:2]] == [("sgd", "sgd"), ("averaged", "swa(start=1)")]
    assert len({cell.run.key for cell in cells}) == 16


def test_numbers_that_yaml_reads_as_strings(path):
    path.write_text(base(recipe="{epochs: 4, lr: 1e-3, weight_decay: 5e-4}"))
    recipe = load(str(path)).cells()[0].run.recipe
    assert (recipe.lr, recipe.weight_decay) == (0.001, 0.0005)


def test_overrides_hold_where_they_match_the_later_one_wins(path):
    path.write_text(
        base(
            datasets="[digits, {name: digits, train_size: 50}]",
            architectures="[lenet5, wrn-10-1]",
            recipe="{epochs: 4, lr: 0.1, schedule: {kind: linear, end: 0.8}}",
            overrides="""
  - {recipe: {momentum: 0.5}}
  - {architecture: lenet5, recipe: {lr: 1e-2, batch_size: 7}}
  - {architecture: lenet5, dataset: digits, recipe: {lr: 0.2}}
  - {architecture: wrn-10-1, recipe: {schedule: {kind: constant}}}""",
        )
    )
    recipes = {cell.run.architecture: cell.run.recipe for cell in load(str(path)).cells()}
    assert [recipe.momentum for recipe in recipes.values()] == [0.5, 0.5]
    assert (recipes["lenet5"].lr, recipes["lenet5"].batch_size) == (0.2, 7)
    assert recipes["lenet5"].schedule == Linear(kind="linear", end=0.8)
    assert (recipes["wrn-10-1"].lr, recipes["wrn-10-1"].batch_size) == (0.1, 128)
    assert recipes["wrn-10-1"].schedule.kind == "constant"


PLUGIN = """
from methods import Method
class Mine(Method):
    def __init__(self, make_net, recipe, *, x: int = 1):
        super().__init__(make_net, recipe)
"""


def test_plugins_join_the_study_once(path, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    path.write_text(base(plugins="[mine.py]"))
    study = load(str(path))
    assert [cell.label for cell in study.cells()] == ["sgd", "mine"]
    assert study.plugins == (tmp_path / "mine.py",)
    path.write_text(base(methods="[swa(mine(x=3))]"))
    assert [cell.label for cell in load(str(path), [tmp_path / "mine.py"]).cells()] == ["swa(mine(x=3))"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "expected one subclass of methods.Method, found 0"),
        ("raise RuntimeError('boo')", "RuntimeError: boo"),
        ("def (", "SyntaxError"),
        (PLUGIN + "METHODS = {'sgd': Mine}", "there is a method named 'sgd' already"),
        ("METHODS = {'mine': 3}", "'mine' is not a subclass of methods.Method"),
    ],
)
def test_plugins_that_are_none(path, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    (error,) = errors_of(path, base(plugins="[mine.py]"))
    assert error.startswith(f"6: plugins: plugin {tmp_path / 'mine.py'}: {message}")


def test_a_wrong_recipe_hides_nothing_else(path):
    """Neither its values, nor what is wrong with them together, nor what the rest of the file has."""
    recipe = "{epochs: 10, lr: 0, schedule: {kind: linear, start: 0.9, end: 0.5}}"
    text = base(recipe=recipe, datasets="[mnits]", architectures="[lenet6]", methods="[sgd, swa(start=20)]")
    found = errors_of(path, text)
    for place, reason in (
        ("4: recipe.lr: ", "greater than 0"),
        ("4: recipe: ", "end 0.5 lies before start 0.9"),
        ("1: datasets[0]: ", "unknown dataset 'mnits'"),
        ("2: architectures[0]: ", "unknown architecture 'lenet6'"),
        ("5: methods[1]: swa(start=20)", "start 20 is epoch 20, but training has only epochs 0 to 9"),
    ):
        assert sum(line.startswith(place) and reason in line for line in found) == 1, (place, found)
    assert len(found) == 5


def test_what_tables_could_not_tell_apart_is_refused(path):
    text = base(datasets="[digits, {name: digits}]", seeds="[0, 1, 0]", architectures="[lenet5, lenet5]")
    assert errors_of(path, text) == [
        "1: datasets[1]: tables would call two datasets 'digits'",
        "2: architectures[1]: 'lenet5' is listed already",
        "3: seeds[2]: 0 is listed already",
    ]
    path.write_text(base(datasets="[digits, {name: digits, validation: 0}]"))
    assert [cell.run.dataset.label for cell in load(str(path)).cells()] == ["digits", "digits validation=0"]


MINE = "from methods import Method\nclass Mine(Method):\n    '''{doc}'''\n"


def test_a_plugin_joins_even_if_its_name_is_part_of_another_one(path, tmp_path):
    plugin = tmp_path / "bn.py"
    plugin.write_text(MINE.format(doc="Mine."))
    path.write_text(base(methods="['label of it': late_phase_bn(K=2)]"))
    assert [cell.label for cell in load(str(path), [plugin]).cells()] == ["label of it", "bn"]
    path.write_text(base(methods="[swa(bn)]"))
    assert [cell.label for cell in load(str(path), [plugin]).cells()] == ["swa(bn)"]


def test_an_edited_plugin_makes_other_runs(path, tmp_path):
    plugin = tmp_path / "mine.py"
    keys = []
    for doc in ("One.", "Two.", "One."):
        plugin.write_text(MINE.format(doc=doc))
        path.write_text(base(methods="[sgd, mine]"))
        keys.append([cell.run.key for cell in load(str(path), [plugin]).cells()])
    assert keys[0] == keys[2] != keys[1]
    assert keys[0][0] == keys[1][0], "an installed method's key is not touched"


def test_paths_are_relative_to_the_study_file(path, tmp_path, monkeypatch):
    arrays = {"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.arange(4) % 2}
    np.savez(tmp_path / "mine.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"])
    path.write_text(base(datasets="[npz:mine.npz]"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (cell,) = load(str(path)).cells()
    assert cell.run.dataset.label == "mine"


def test_a_plugin_is_run_once_for_a_study(path, tmp_path):
    mark = tmp_path / "mark"
    plugin = tmp_path / "mine.py"
    plugin.write_text(MINE.format(doc="Mine.") + f"open({str(mark)!r}, 'a').write('x')\n")
    path.write_text(base())
    assert [cell.label for cell in load(str(path), [plugin]).cells()] == ["sgd", "mine"]
    assert mark.read_text() == "x"
