"""Whatever a user gives to the command line is answered, or refused with a line that says what to do."""

import pytest

from tests.harness.cli.bad_inputs.all_inputs import INPUTS
from tests.harness.cli.bad_inputs.inputs import give

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("given", INPUTS, ids=[given.name for given in INPUTS])
def test_an_input_is_answered_or_refused(given, tmp_path):
    found = give(given, tmp_path)
    assert found.code == given.code, found.printed
    assert "Traceback" not in found.printed
    everything = " ".join(found.printed.split())
    assert given.says in (everything if given.anywhere or given.code == 0 else found.first_line)
    assert ":pw@" not in found.printed and "=pw" not in found.printed, "a password"
    assert found.seconds < given.seconds


def test_there_are_many_inputs_of_different_names():
    assert len(INPUTS) >= 200
    assert len({given.name for given in INPUTS}) == len(INPUTS)
