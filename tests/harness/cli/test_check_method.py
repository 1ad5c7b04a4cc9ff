"""`econ check-method` prints what it finds, with remedies, and ends with a code."""

import pytest

from harness.cli import main
from harness.conformance import check_method

TRAP = '''
from methods import Method

class Counts(Method):
    """Counts steps."""
    steps = 0

    def update(self, batches, optimizer):
        self.steps += 1
        return super().update(batches, optimizer)
'''


@pytest.fixture
def econ(monkeypatch, capsys, tmp_path):
    """Return a function that runs the command with one network: its exit code and what it printed."""
    monkeypatch.setattr(check_method, "NETWORKS", ("lenet5",))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["econ", "check-method", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out + printed.err

    return run


def test_a_failure_is_printed_with_its_remedy(econ, tmp_path):
    path = tmp_path / "counts.py"
    path.write_text(TRAP)
    code, printed = econ(path)
    assert code == 1
    assert "FAILS  counts on lenet5" in printed
    assert "failure: resume: after 3 epochs the attribute steps is 18" in printed
    assert "keep it in a buffer" in printed
    assert "1 checked, 0 refused, 1 failure\n" in printed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("counts(speed=3)", "counts has no hyperparameter 'speed'"),
        ("amounts", "unknown method 'amounts'; did you mean 'counts'?"),
    ],
)
def test_an_expression_that_is_wrong_is_refused(econ, tmp_path, expression, message):
    path = tmp_path / "counts.py"
    path.write_text(TRAP)
    code, printed = econ(path, expression)
    assert code == 2
    assert message in printed


def test_a_file_that_is_not_there_is_refused(econ, tmp_path):
    code, printed = econ(tmp_path / "nowhere.py")
    assert code == 2
    assert "nowhere.py: no such file" in printed
