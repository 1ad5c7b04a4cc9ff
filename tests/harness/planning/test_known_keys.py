"""The keys of runs and trunks stay as they were, so that finished runs of earlier versions are found.

`known_keys.json` holds the keys of the digits, of the landscape and of twelve studies of the papers, written down
before the modules were moved into rooms. A key may change only together with a version that is raised on purpose: a
method's, a dataset's, or the quadratic problem's. `python -m tests.harness.planning.test_known_keys` writes the file
anew.
"""

import json
from pathlib import Path

import pytest

from harness.planning.plan import Plan
from harness.studies.study import load

FILE = Path(__file__).with_name("known_keys.json")
KNOWN = json.loads(FILE.read_text(encoding="utf-8"))


def keys_of(study: str) -> list[str]:
    """The keys of all runs and trunks of a study, in order."""
    return sorted(Plan(load(study), share=True).runs)


@pytest.mark.parametrize("study", KNOWN)
def test_a_studys_keys_are_the_known_ones(study):
    assert keys_of(study) == KNOWN[study]


if __name__ == "__main__":
    FILE.write_text(json.dumps({study: keys_of(study) for study in KNOWN}, indent=0) + "\n", encoding="utf-8")
