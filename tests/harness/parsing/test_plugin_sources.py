"""What a plugin is made of: the modules beside it can be imported, and are part of the keys of its methods' runs."""

import shutil
import subprocess
import sys
import textwrap

import pytest

from harness.parsing import plugin_sources
from harness.parsing.method_expression import parse_method
from harness.parsing.plugins import available_methods, load_plugins
from methods import Recipe

PLUGIN = """
from methods import Method
from my_layers import FACTOR

class Mine(Method):
    '''Mine.'''
    factor = FACTOR
"""
METHOD = "from methods import Method\nclass {}(Method):\n    '''A method.'''\n"


@pytest.fixture(autouse=True)
def python(monkeypatch):
    """Restore what loading plugins changes: Python's path, and whether it writes compiled modules."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes modules, by name, to a folder, and returns the path of the first one."""

    def write(folder="plugin", **texts):
        paths = [tmp_path / folder / f"{name}.py" for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return paths[0]

    return write


def source(expression, *plugins):
    """The part of a run's key that stands for the plugin of its method."""
    spec, errors = parse_method(expression, available_methods(plugins))
    assert spec, errors
    return spec.source


def files(plugin):
    """The names of the files that a plugin is made of."""
    return set(load_plugins([plugin])[0].source.files)


# --- modules beside the plugin --------------------------------------------------------------------------------


def test_a_plugin_may_import_a_module_beside_it(write):
    path = write(mine=PLUGIN, my_layers="FACTOR = 1\n")
    assert available_methods([path])["mine"].factor == 1


def test_the_modules_beside_a_plugin_are_part_of_its_methods_keys(write):
    path = write(mine=PLUGIN, my_layers="FACTOR = 1\n")
    before = source("mine", path)
    write(my_layers="FACTOR = 2\n")
    assert source("mine", path) != before
    assert available_methods([path])["mine"].factor == 2, "it was read anew"
    write(my_layers="FACTOR = 1\n")
    assert source("mine", path) == before
    write(mine=PLUGIN + "# a comment\n")
    assert source("mine", path) != before


def test_modules_count_wherever_they_are_imported(write):
    path = write(
        mine="""
            import importlib
            from methods import Method
            import package.nested
            importlib.import_module("by_name")
            class Mine(Method):
                '''Mine.'''
                def loss(self, x, y, weights=None):
                    import late
            """,
        by_name="",
        late="import later\n",
        later="",
        unused="",
    )
    write(
        "plugin/package",
        __init__="from .beside import X\n",
        nested="import package.deeper as deeper\n",
        deeper="def f():\n    from . import lazy\n",
        lazy="",
        beside="X = 1\n",
        unused="",
    )
    inside = {"__init__", "nested", "deeper", "lazy", "beside"}
    expected = {"mine.py", "by_name.py", "late.py", "later.py", *(f"package/{name}.py" for name in inside)}
    assert files(path) == expected
    assert files(path) == expected, "loaded again"
    (method,) = load_plugins([path])[0].methods.values()
    method.loss(None, None, None)


def test_a_module_that_is_imported_late_is_read_anew_too(write):
    path = write(mine=METHOD.format("Mine") + "    def factor():\n        import late\n        return late.FACTOR\n")
    for factor in (1, 2):
        write(late=f"FACTOR = {factor}\n")
        assert available_methods([path])["mine"].factor() == factor


def test_neither_python_nor_installed_packages_nor_ours_are_part_of_a_plugin(write):
    text = "import json, yaml, torch, methods.swa, models\nfrom harness.store import run_folder\n"
    assert files(write(mine=text + METHOD.format("Mine"))) == {"mine.py"}


def test_a_class_of_another_folder_brings_its_files(write, tmp_path):
    write("", sam="import sam_tools\n" + METHOD.format("SAM"), sam_tools="")
    path = write(
        mine="""
            import sys
            from pathlib import Path
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from sam import SAM
            METHODS = {"mine": SAM}
            """
    )
    assert files(path) == {"mine.py", "sam.py", "sam_tools.py"}
    before = source("mine", path)
    write("", sam_tools="# edited\n")
    assert source("mine", path) != before


@pytest.mark.parametrize("use", ["helpers", "helpers.Layer", "helpers.make"])
def test_a_file_that_is_loaded_by_its_path_counts(write, use):
    path = write(
        mine=f"""
            import importlib.util
            from pathlib import Path
            spec = importlib.util.spec_from_file_location("helpers", Path(__file__).parents[1] / "other" / "helpers.py")
            helpers = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(helpers)
            used = {use}
            {"" if use == "helpers" else "del helpers, spec"}
            """
        + METHOD.format("Mine").replace("\n", "\n            ")
    )
    helpers = "class Layer:\n    def f(self): return {}\n\ndef make(): return Layer()\n"
    write("other", helpers=helpers.format(1))
    assert files(path) == {"mine.py", "helpers.py"}
    before = source("mine", path)
    write("other", helpers=helpers.format(2))
    assert source("mine", path) != before


@pytest.mark.parametrize(
    "text",
    [
        "METHODS = {'mine': load().Mine}",
        "class Mine(load().Mine):\n    'Mine.'",
        "LAYERS = [(1, {'a': load().Layer})]\nclass Mine(Method):\n    'Mine.'",
        "LAYER = load().Layer()\nclass Mine(Method):\n    'Mine.'",
    ],
    ids=["a class in a dict", "a base", "nested", "an instance"],
)
def test_what_comes_of_a_file_that_is_loaded_by_its_path_counts(write, text):
    load = """
import importlib.util
from pathlib import Path
from methods import Method
def load():
    spec = importlib.util.spec_from_file_location("impl", Path(__file__).parents[1] / "other" / "impl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
"""
    write("other", impl=METHOD.format("Mine") + "    def f(self): pass\nclass Layer:\n    def f(self): pass\n")
    assert files(write(mine=load + text + "\n")) == {"mine.py", "impl.py"}


def test_an_object_that_has_every_attribute_breaks_nothing(write):
    text = "class Names(dict):\n    __getattr__ = dict.get\nCFG = Names(a=1)\n"
    assert files(write(mine=text + METHOD.format("Mine"))) == {"mine.py"}


def test_a_plugin_that_changes_our_classes_is_refused(write, monkeypatch):
    monkeypatch.setattr(Recipe, "criterion", Recipe.criterion)  # restores it afterwards
    text = "from methods import Recipe\nRecipe.criterion = lambda self, logits, y: logits.sum()\n"
    with pytest.raises(ValueError, match=r"it changes Recipe.criterion, which other methods use, too"):
        load_plugins([write(mine=text + METHOD.format("Mine"))])


def test_where_an_optional_module_would_lie_is_known(write):
    path = write(mine="try:\n    import my_optional\nexcept ImportError:\n    pass\n" + METHOD.format("Mine"))
    absent = load_plugins([path])[0].source.absent
    assert {path.with_name("my_optional.py"), path.parent / "my_optional" / "__init__.py"} <= set(absent)
    write(my_optional="")
    assert files(path) == {"mine.py", "my_optional.py"}


def test_a_key_does_not_depend_on_where_the_files_lie(write, tmp_path):
    path = write(mine=PLUGIN, my_layers="FACTOR = 1\n")
    before = source("mine", path)
    shutil.move(path.parent, tmp_path / "elsewhere")
    assert source("mine", tmp_path / "elsewhere" / "mine.py") == before


def test_a_raised_interface_gives_new_keys(write, monkeypatch):
    path = write(mine=METHOD.format("Mine"))
    before = source("mine", path)
    monkeypatch.setattr(plugin_sources, "INTERFACE", plugin_sources.INTERFACE + 1)
    assert source("mine", path) != before


# --- names and classes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["methods.SWA", "methods.METHODS['swa']"])
def test_a_class_of_ours_that_a_plugin_names_has_the_plugins_source(write, named):
    path = write(plugin=f"import methods\nMETHODS = {{'mine': {named}}}\n")
    methods = available_methods([path])
    assert methods["mine"] is methods["swa"]
    spec, _ = parse_method("mine(swa(start=1), start=2)", methods)
    assert spec.source and spec.of.source is None
    write(plugin=path.read_text() + "# edited\n")
    assert source("mine", path) not in (None, spec.source)


def test_one_class_of_two_plugins_has_two_sources(write):
    write(shared=METHOD.format("Shared"))
    one = write(one="from shared import Shared\nMETHODS = {'a': Shared}\n")
    two = write(two="from shared import Shared\nMETHODS = {'b': Shared}\n")
    methods = available_methods([one, two])
    assert methods["a"] is methods["b"]
    assert {name: set(methods.sources[name].files) for name in "ab"} == {
        "a": {"one.py", "shared.py"},
        "b": {"two.py", "shared.py"},
    }
    assert source("a", one, two) == source("a", one)


def test_a_module_that_another_plugin_has_imported_counts(write):
    write(shared=METHOD.format("Shared"))
    one = write(one="from shared import Shared\nMETHODS = {'a': Shared}\n")
    two = write(two="import importlib\nShared = importlib.import_module('shared').Shared\nMETHODS = {'b': Shared}\n")
    assert source("b", one, two) == source("b", two)
    assert files(two) == {"two.py", "shared.py"}


def test_plugins_of_one_name_in_two_folders_have_their_own_sources(write):
    one = write("one", plugin=METHOD.format("A") + "METHODS = {'a': A}\n")
    two = write("two", plugin=METHOD.format("B") + "METHODS = {'b': B}\n")
    assert source("a", one, two) == source("a", one) != source("b", one, two) == source("b", two)


# --- modules that Python takes from elsewhere -----------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_two_modules_of_one_name_are_refused(write, lazy):
    def plugin(name):
        text = (
            "from methods import Method\nclass Mine(Method):\n    '''Mine.'''\n    def f(self):\n        import tools\n"
        )
        return text if lazy else f"import tools\n{METHOD.format(name)}"

    one = write("one", first=plugin("A"), tools="X = 1\n")
    two = write("two", second=plugin("B"), tools="X = 2\n")
    with pytest.raises(ValueError, match=r"second\.py: .*two/tools\.py.*one/tools\.py.* rename"):
        available_methods([one, two])
    assert available_methods([two])["second"], "alone, it finds its own"
    write("two", tools="X = 1\n")
    assert available_methods([one, two])["second"], "equal files are one module"


@pytest.mark.parametrize("name", ["yaml", "string", "models"])
def test_a_module_with_the_name_of_another_one_is_refused(write, name):
    path = write(mine=f"from {name} import MINE\n" + METHOD.format("Mine"), **{name: "MINE = 1\n"})
    with pytest.raises(ValueError, match=rf"mine\.py: .*/{name}\.py.* rename"):
        available_methods([path])


def test_a_broken_module_beside_a_plugin_is_named_and_read_again_once_mended(write):
    path = write(mine=PLUGIN, my_layers="FACTOR = \n")
    with pytest.raises(ValueError, match="mine.py: SyntaxError.*my_layers.py"):
        available_methods([path])
    write(my_layers="FACTOR = 3\n")
    assert available_methods([path])["mine"].factor == 3


# --- in other processes ---------------------------------------------------------------------------------------


def test_the_source_is_the_same_in_another_process(write, tmp_path, environment):
    path = write(mine=PLUGIN, my_layers="import more\nFACTOR = 1\n", more="")
    code = (
        "import sys; from pathlib import Path\n"
        "from harness.parsing.plugins import available_methods\n"
        "print(available_methods([Path(sys.argv[1])]).sources['mine'].digest)"
    )
    command = [sys.executable, "-c", code, "plugin/mine.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == source("mine", path)
    assert not list(path.parent.glob("__pycache__")), "nothing is left beside the plugin"
