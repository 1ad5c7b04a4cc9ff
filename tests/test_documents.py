"""What the documents show must work: every command and every snippet is run, or stands here with the reason why not."""

import ast
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from harness.parsing.plugins import load_plugin
from harness.running.optimizers import make_optimizer
from harness.studies.study import load
from harness.studies.study_files import find_study
from methods import MakeNet, Recipe
from tests.conftest import TinyNet, separable
from tests.methods.training import finish, train_epochs
from tests.snippets import BLOCKS, COMMANDS, FILES, PAGES, ROOT, Block, inline_commands, parse
from tests.snippets import run as run_command

TUTORIAL = "docs/from-runs-to-a-paper.md"
"""Run from end to end by tests/test_tutorial.py, its blocks of LaTeX too."""
NOT_RUN = {
    "make": "installs, tests and measures for minutes to hours; its targets are looked up, its own commands are read",
    "source": "of the reader's shell",
    "export": "of the reader's shell",
    "mlflow": "a server that never ends; its options are read",
    "ray": "starts a cluster of several machines; its options are read, tests/harness/engines has a small one",
}
"""Programs whose commands are checked, and not run."""
NOT_HERE = {
    "docs/many-machines.md": "GPUs and clusters; what `econ run` plans is run by the test of plans",
}
"""Pages whose commands are not run from end to end."""
MINIMAL = {
    "datasets": ["digits"],
    "architectures": ["lenet5"],
    "seeds": [0],
    "recipe": {"epochs": 4, "batch_size": 32, "lr": 0.05},
    "methods": ["sgd", "line"],
}
"""A study, to which a snippet adds its keys."""
DIGITS = "[{name: digits, train_size: 100, corruptions: none}]"
SMALL = "\n".join(
    [
        f"datasets: {DIGITS}",
        "architectures: [lenet5]",
        "seeds: [0, 1]",
        "recipe: {epochs: 2, batch_size: 32, lr: 0.05}",
        "methods: [sgd, 'late_phase_bn(K=2, start=0.5)']",
    ]
)
"""In place of the study `digits`, which takes minutes."""
SCALE = "epochs=4,subset=32,width=0.1,members=2,seeds=1,data=made"
"""Of the other studies, in place of `tiny` too."""
FIRST = {"econ plot late-phase/figure-3": "econ run late-phase/figure-3"}
"""What must be done before, as the page says in words."""

CONSOLE = [(block, command) for block in BLOCKS if block.kind == "console" for command in block.commands()]
ECON = [(block, command[1:]) for block, command in CONSOLE if command[0] == "econ"]


def of(kind, *, page=None, without=()):
    """Give the blocks of a kind, perhaps of one page, or of all but some."""
    return [b for b in BLOCKS if b.kind == kind and page in (None, b.page) and b.page not in without]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Go to a folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for name, block in FILES.items():
        Path(name).write_text(block.text, encoding="utf-8")
    for block in of("yaml", page=TUTORIAL):
        Path(re.match(r"# (\S+?):", block.text)[1]).write_text(block.text, encoding="utf-8")
    return tmp_path


def call(monkeypatch, capsys, *arguments):
    """Run `econ` in this process: what it printed."""
    from harness.cli import main

    monkeypatch.setattr(sys, "argv", ["econ", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the folders of plugins are added
    monkeypatch.setattr("harness.conformance.check_method.NETWORKS", ("lenet5",))  # of three, for time
    monkeypatch.setattr("harness.conformance.check_method.COMPOSED_ON", "lenet5")
    monkeypatch.setattr("harness.conformance.check_method.AROUND", ("swa({})",))  # of five
    monkeypatch.setattr("harness.conformance.check_method.INSIDE", ("swa",))  # of four
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        main()
    except SystemExit as end:
        assert not end.code, f"econ {shlex.join(map(str, arguments))}: {capsys.readouterr()}"
    return capsys.readouterr().out


def name_of(part):
    """Name a test by its block, or by the words of its command."""
    return str(part) if isinstance(part, Block) else " ".join(part)


class TestEverySnippet:
    def test_is_of_a_kind_that_a_test_runs(self):
        """What to do if this fails: say below how blocks of the new kind are run."""
        assert {block.kind for block in BLOCKS} <= {"console", "python", "yaml", "bash", "latex", "text"}
        assert {block.page for block in of("latex")} == {TUTORIAL}
        assert {block.page for block in of("text")} == {"docs/digits.md"}, "the board, which its own test compares"
        assert {block.page for block in of("bash")} == {"docs/many-machines.md"}, "the script of SLURM"

    def test_calls_programs_that_a_test_runs_or_names(self):
        programs = {command[0] for block, command in CONSOLE if block.page != TUTORIAL}
        assert programs <= {"econ", "python", *NOT_RUN}, programs

    @pytest.mark.parametrize("block", of("python"), ids=str)
    def test_in_python_imports_names_that_exist(self, block):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)

    @pytest.mark.parametrize("block", of("bash"), ids=str)
    def test_in_bash_runs(self, here, block):
        """The script of SLURM on two nodes, whose programs only note what they are asked for."""
        note = '#!/bin/sh\necho "$(basename "$0")" "$@" >> "$NOTES"\n'
        for name in ("ray", "srun", "econ", "hostname"):
            Path(name).write_text(note + ("echo node-1\n" if name == "hostname" else ""))
            Path(name).chmod(0o755)
        Path(".venv/bin").mkdir(parents=True)
        Path(".venv/bin/activate").touch()
        slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "NOTES": str(here / "notes")}
        environment = os.environ | slurm | {"PATH": f"{here}:{os.environ['PATH']}"}
        script = block.text + "wait\n"
        subprocess.run(["bash", "-c", script, "econ.sbatch", "my_study.yaml"], env=environment, check=True, timeout=60)
        noted = [shlex.split(line) for line in Path("notes").read_text().splitlines() if "hostname" not in line[:8]]
        assert sorted({command[0] for command in noted}) == ["econ", "ray", "srun"]
        for program, *arguments in noted:
            if program == "econ":
                assert parse(arguments)["ray_address"] == "node-1:20007"
            else:
                read_ray(arguments[arguments.index("ray") + 1 :] if program == "srun" else arguments)

    def test_of_a_study_is_one(self, here, monkeypatch, capsys):
        shown = [block for block in of("yaml", without=[TUTORIAL]) if block.title]
        assert shown
        for block in shown:
            Path(block.title).write_text(block.text, encoding="utf-8")
            assert "study my_study: " in call(monkeypatch, capsys, "run", block.title, "--dry-run"), block

    @pytest.mark.parametrize("block", [b for b in of("yaml", without=[TUTORIAL]) if not b.title], ids=str)
    def test_of_a_part_of_a_study_fits_into_one(self, here, monkeypatch, capsys, block):
        images = np.zeros((20, 32, 32, 3), np.uint8)
        np.savez("mine.npz", x_train=images, y_train=np.arange(20) % 2, x_test=images, y_test=np.arange(20) % 2)
        Path("my_text.txt").write_text("a text " * 1000)
        for part in ("train", "test"):
            for kind in ("cat", "dog"):
                folder = Path("my_images", part, kind)
                folder.mkdir(parents=True)
                from PIL import Image

                Image.fromarray(images[0]).save(folder / "a.png")
        part = yaml.safe_load(block.text)
        for dataset in part.pop("datasets", ["digits"]):
            text = isinstance(dataset, dict) and dataset["name"].startswith("text:")
            study = MINIMAL | {"datasets": [dataset], "architectures": ["lstm-8" if text else "lenet5"]} | part
            study["methods"] = ["sgd"] if text else study["methods"]
            Path("part.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
            assert "study part: " in call(monkeypatch, capsys, "run", "part.yaml", "--dry-run"), dataset


def read_ray(arguments):
    """Read the arguments of `ray` as it does."""
    scripts = pytest.importorskip("ray.scripts.scripts")
    scripts.cli.commands[arguments[0]].make_context(arguments[0], arguments[1:])


class TestEveryCommand:
    @pytest.mark.parametrize(
        ("block", "arguments"), ECON, ids=lambda each: str(each) if isinstance(each, Block) else " ".join(each)
    )
    def test_of_econ_is_understood(self, block, arguments):
        """Its name, options and values exist, and its study too, by its name or as a file that a page shows."""
        known = parse(arguments)
        study = known.get("study")
        tutorials = {re.match(r"# (\S+?):", each.text)[1] for each in of("yaml", page=TUTORIAL)}
        assert study is None or study in {*FILES, *tutorials} or find_study(study), study
        written = {command[1] + ".py" for _, command in ECON_NEW}
        for plugin in known.get("plugin") or []:
            assert str(plugin) in {*FILES, *written}

    def test_of_econ_in_a_sentence_is_understood(self):
        for page, arguments in inline_commands():
            if len(arguments) == 1:
                assert arguments[0] in COMMANDS, (page, arguments)
            else:
                parse([{"STUDY": "digits", "FILE": "a.yaml"}.get(each, each) for each in arguments])

    def test_of_econ_that_is_quick_is_run(self, here, monkeypatch, capsys):
        """Lists, plans and new methods; of what would train, the plan."""
        seen = set()
        for _, arguments in [*ECON_NEW, *ECON]:
            quick = arguments[0] in ("list", "new-method") or "--dry-run" in arguments
            known = parse(arguments)
            said = arguments if quick else [arguments[0], known.get("study"), known.get("plugin"), known.get("scale")]
            if arguments[0] == "run" and "--tuned" not in arguments and not quick:
                arguments, quick = [*arguments, "--dry-run"], True
            if quick and str(said) not in seen:
                assert call(monkeypatch, capsys, *arguments), arguments
                seen.add(str(said))
        assert Path("my_method.py").exists() and len(seen) >= 10, seen

    def test_of_make_has_a_target(self):
        makefile = (ROOT / "Makefile").read_text()
        (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
        named = [command[1] for _, command in CONSOLE if command[0] == "make"]
        text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
        named += re.findall(r"`make ([\w-]+)[^`]*`", text)
        assert named and set(named) <= set(phony.split())
        for command in re.findall(r"^\t\$\(BIN\)/econ (.*)$", makefile, re.MULTILINE):
            parse(shlex.split(command.replace("$(STUDY)", "digits").replace("$(RESULTS)", "results")))

    def test_of_mlflow_and_ray_is_understood(self):
        for _, (program, name, *rest) in CONSOLE:
            if program == "ray":
                read_ray([name, *rest])
            elif program == "mlflow":
                from mlflow.cli import cli

                cli.get_command(None, name).make_context(name, rest)


ECON_NEW = [(block, arguments) for block, arguments in ECON if arguments[0] == "new-method"]


def reduced(command):
    """Make a command of `econ` small: a small study in the place of `digits`, a rehearsal of others, fewer trials."""
    name, *rest = command[1:]
    study = parse([name, *rest]).get("study")
    rest = ["2" if before == "--trials" else each for before, each in zip(["", *rest], rest, strict=False)]
    if study == "digits":
        rest = ["digits.yaml" if each == "digits" else each for each in rest]
    elif study and not study.endswith(".yaml"):
        rest = [each for each in rest if each not in ("--scale", "tiny")] + ["--scale", SCALE]
    return ["econ", name, *rest]


WITH_COMMANDS = sorted(
    {b.page for b, command in CONSOLE if command[0] not in NOT_RUN} - {TUTORIAL, *NOT_HERE},
)


@pytest.mark.long
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_a_page_runs_from_end_to_end(page, here, monkeypatch, capsys):
    """Its commands and its Python, in order, each as it is written but for its size."""
    Path("digits.yaml").write_text(SMALL, encoding="utf-8")
    names: dict[str, object] = {}
    for block in [b for b in BLOCKS if b.page == page]:
        if block.title:
            text = block.text.replace("[digits]", DIGITS) if block.kind == "yaml" else block.text
            Path(block.title).write_text(re.sub(r"epochs: \d+", "epochs: 3", text), encoding="utf-8")
        elif block.kind == "python":
            exec(compile(block.text, str(block), "exec"), names)
        elif block.kind == "console":
            for command in block.commands():
                first = FIRST.get(shlex.join(command))
                for each in filter(None, [first and shlex.split(first), command]):
                    if each[0] == "econ":
                        call(monkeypatch, capsys, *reduced(each)[1:])
                    elif each[0] not in NOT_RUN:
                        run_command(each)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site: a broken link, a page outside the navigation or an unknown name ends the build."""
    folder = tmp_path_factory.mktemp("site")
    run_command(["python", "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"), "-d", str(folder)])
    return folder


class TestTheSite:
    def test_loads_nothing_from_elsewhere(self, site):
        loaded = r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\" >]*)"
        found = {url for page in site.rglob("*.html") for url in re.findall(loaded, page.read_text(encoding="utf-8"))}
        assert found == set()
        assert not re.search(r"url\(\"?https?:", (site / "assets" / "extra.css").read_text())
        assert (site / "search" / "search_index.js").exists(), "search in a site that was opened from disk"

    @pytest.mark.parametrize("name", ["methods", "models", "data", "analysis"])
    def test_describes_every_public_name(self, site, name):
        """Where a module has the name of its function, only the module is found, so that such a name is left out."""
        package, text = importlib.import_module(name), (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        names = getattr(package, "__all__", ["MODELS", "build", "describe_architectures", "architecture_names"])
        names = [each for each in names if not (ROOT / name / f"{each}.py").exists()]
        assert [each for each in names if f'id="{name}.{each}"' not in text] == []

    def test_has_generated_pages_that_are_current(self):
        """After a change of a method or a study: `make docs`, or `python docs/generate.py`."""
        spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
        spec.loader.exec_module(generate := importlib.util.module_from_spec(spec))
        for path, write in generate.PAGES.items():
            assert path.read_text(encoding="utf-8") == write(), path


def test_the_method_in_the_documents_is_whole(tmp_path, batches):
    path = tmp_path / "mixup.py"
    path.write_text(FILES["mixup.py"].text)
    method = load_plugin(path)["mixup"](MakeNet(TinyNet, 0), Recipe(epochs=4, lr=0.05), alpha=0.3)
    losses = train_epochs(method, make_optimizer(method, method.recipe), batches)
    assert losses[-1] < losses[0]
    x, y = separable(60, 3)
    with torch.no_grad():
        assert (finish(method, batches).predict(x)[0].argmax(-1) == y).float().mean() > 0.8


class TestTheBoard:
    def test_shows_the_study_as_it_is(self):
        """Every method of the study has its row in the board of one of its networks."""
        (board,) = of("text", page="docs/digits.md")
        for entry in load("digits").grids[0].methods:
            assert len(re.findall(rf"^ *\d+  {re.escape(entry.label)} +3  ", board.text, re.MULTILINE)) == 1, (
                entry.label
            )

    def test_is_the_one_of_the_readme(self):
        (board,) = of("text", page="docs/digits.md")
        whole = {line.split()[0]: re.split(r" {2,}", line.strip()) for line in board.text.splitlines() if " ± " in line}
        rows = re.findall(r"^\| (\d+ \|.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert len(rows) == 8
        for row in rows:
            rank, method, *figures = row.split(" | ")
            assert method == f"`{whole[rank][1]}`"
            assert [each in whole[rank] for each in figures] == [True] * 6, row


class TestTheReadme:
    def test_is_short(self):
        assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200

    @pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
    def test_links_to_what_exists(self, name):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_citation_is_valid_and_of_this_version():
    """The keys that the Citation File Format 1.2.0 asks for, and no others than these."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    asked = {"cff-version", "message", "title", "authors"}
    assert asked <= set(cited) <= asked | {"abstract", "type", "version", "license", "keywords", "references"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["cff-version"], cited["title"]) == ("1.2.0", project["name"])
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [each["year"] for each in cited["references"]] == [2021, 2020, 2021]
    for each in cited["references"]:
        assert {"type", "title", "authors"} <= set(each)
        assert each["type"] in ("article", "conference-paper")
        assert all(set(author) == {"given-names", "family-names"} for author in each["authors"])


class TestTheArchitecture:
    """The page of the architecture names what is there."""

    TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## The map of rooms")[0]

    def test_its_files_and_folders_exist(self):
        paths = re.findall(r"`((?:methods|models|data|harness|analysis)/[\w/.]*)`", self.TEXT)
        assert len(paths) > 40
        assert [path for path in paths if not (ROOT / path).exists()] == []

    def test_a_name_before_a_file_is_defined_there(self):
        pairs = re.findall(r"`([\w.]+)`\s+\(`([\w/]+\.py)`", self.TEXT)
        pairs += re.findall(r"`([\w.]+)`\s+in\s+`([\w/]+\.py)`", self.TEXT)
        assert len(pairs) > 15
        for name, path in pairs:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            parts = name.split(".")
            if not parts[-1][0].isupper() or parts[-1].isupper() or len(parts) > 1:
                parts = parts[-1:]  # a method or function; its class may lie elsewhere
            defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
            defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert set(parts) <= defined, (name, path)
