"""Methods from files and entry points, and the messages when they are wrong."""

from importlib.metadata import EntryPoint

import pytest

from harness.cache import user_cache
from harness.cache.user_cache import ENTRY_POINT_GROUP
from harness.parsing import plugins
from methods import METHODS, Method

GOOD = "from methods import Method\nclass Mine(Method):\n    '''Mine.'''\n"


def write(path, text):
    path.write_text(text)
    return path


def test_a_file_with_one_method_names_it_by_its_own_name(tmp_path):
    path = write(tmp_path / "my_method.py", GOOD)
    found = plugins.available_methods([path])
    assert set(found) == {*METHODS, "my_method"}
    assert issubclass(found["my_method"], Method)


def test_a_file_with_several_methods_names_them(tmp_path):
    text = GOOD + "class Other(Mine):\n    '''Other.'''\nMETHODS = {'mine': Mine, 'other': Other}\n"
    assert set(plugins.load_plugin(write(tmp_path / "both.py", text))) == {"mine", "other"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "expected one subclass of methods.Method, found 0"),
        (GOOD + "class Other(Mine):\n    pass\n", "found 2"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def broken(:\n", "SyntaxError"),
        (GOOD + "METHODS = {'swa': Mine}\n", "there is a method named 'swa' already"),
        ("METHODS = [3]\n", "METHODS must be a dict"),
        ("METHODS = {'mine': 3}\n", "'mine' is not a subclass of methods.Method"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, reason):
    path = write(tmp_path / "wrong.py", text)
    with pytest.raises(ValueError, match="wrong.py") as error:
        plugins.available_methods([path])
    assert reason in str(error.value)


def test_a_file_may_import_the_registry(tmp_path):
    text = GOOD.replace("import Method", "import METHODS, Method")
    assert set(plugins.load_plugin(write(tmp_path / "mine.py", text))) == {"mine"}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.py: no such file"):
        plugins.available_methods([tmp_path / "nowhere.py"])


@pytest.fixture
def install(monkeypatch):
    """Name a method as an installed package would; forget it after the test."""

    def install(value: str) -> None:
        point = EntryPoint("theirs", value, ENTRY_POINT_GROUP)
        monkeypatch.setattr(user_cache, "entry_points", lambda group: [point] if group == ENTRY_POINT_GROUP else [])
        user_cache.method_entry_points.cache_clear()

    yield install
    user_cache.method_entry_points.cache_clear()


def test_a_broken_entry_point_is_left_out_with_a_warning(install):
    install("nothing_of_this_name:X")
    with pytest.warns(UserWarning, match="entry point nothing_of_this_name:X: ModuleNotFoundError"):
        assert plugins.available_methods() == METHODS


def test_a_plugin_must_have_a_name_that_studies_can_write(tmp_path):
    with pytest.raises(ValueError, match="call the file like my_method.py"):
        plugins.load_plugin(write(tmp_path / "my-method.py", GOOD))


def test_entry_points_join(install):
    install("methods.swa:SWA")
    assert plugins.available_methods()["theirs"] is METHODS["swa"]
