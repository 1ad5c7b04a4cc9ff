"""What the documents show must work."""

import re
from pathlib import Path

import torch

from harness.parsing.plugins import load_plugin
from harness.running.optimizers import make_optimizer
from harness.studies.study import load
from methods import MakeNet, Recipe
from tests.conftest import TinyNet, separable
from tests.methods.training import finish, train_epochs

ROOT = Path(__file__).parent.parent


def test_the_method_in_contributing_is_whole(tmp_path, batches):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    path = tmp_path / "mixup.py"
    path.write_text(code)
    method = load_plugin(path)["mixup"](MakeNet(TinyNet, 0), Recipe(epochs=4, lr=0.05), alpha=0.3)
    losses = train_epochs(method, make_optimizer(method, method.recipe), batches)
    assert losses[-1] < losses[0]
    x, y = separable(60, 3)
    with torch.no_grad():
        assert (finish(method, batches).predict(x)[0].argmax(-1) == y).float().mean() > 0.8


def test_the_readme_shows_the_study_as_it_is():
    """Every method of the study has its row in the board of one of its networks."""
    text = (ROOT / "README.md").read_text()
    for entry in load("digits").grids[0].methods:
        assert len(re.findall(rf"^ *\d+  {re.escape(entry.label)} +3  ", text, re.MULTILINE)) == 1, entry.label


def test_the_layout_names_files_that_exist_and_every_folder():
    text = (ROOT / "README.md").read_text()
    layout = text.split("## Layout")[1]
    named = set(re.findall(r"^\s+(\w+/[\w./]+|[\w.]+\.\w+)\s", layout, re.MULTILINE))
    files = {
        path.relative_to(ROOT).as_posix()
        for name in ("methods", "models", "data", "harness", "analysis")
        for path in (ROOT / name).glob("*.py")
    }
    files -= {file for file in files if file.endswith("__init__.py")}
    assert files <= named, sorted(files - named)
    assert all((ROOT / name).exists() for name in named), sorted(name for name in named if not (ROOT / name).exists())
