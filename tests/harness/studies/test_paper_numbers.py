"""The papers' values in the studies against the papers' texts.

The texts are not part of this project: the tests need a folder with them, $ECON_PAPERS, and skip without it. Where a
text has "± 0∙16", ± 0.16 is meant.
"""

import os
import re
from pathlib import Path

import pytest

from harness.studies.paper_values import read_value
from harness.studies.study import load
from harness.studies.study_files import study_names

FILES = {
    "late-phase": "late-phase-weights.txt",
    "hypernetworks": "economical-hypernetwork-ensembles.txt",
    "subspaces": "learning-subspaces.txt",
}
STATED_IN_PROSE = {
    ("late-phase/table-12", "0 in the text"),
    ("late-phase/table-2", "SGD"),
    ("late-phase/table-1", "Late-phase full (SGD)"),
    ("late-phase/table-1", "Late-phase full, members (SGD)"),
}
"""Rows with a value that is on another line of the text than the rest."""

# (study, row, column, value, line of the text), each checked by hand; the inconsistencies of the texts among them.
CHECKED = [
    ("late-phase/table-1", "Late-phase (SGD)", "Test acc. (%)", "96.46 ± 0.15", 278),
    ("late-phase/table-1", "Late-phase (SWA)", "Test acc. (%)", "96.81 ± 0.07", 280),
    ("late-phase/table-1", "Deep ensemble (LPBN, SGD)", "Test acc. (%)", "96.99", 282),
    ("late-phase/table-1", "Late-phase full (SGD)", "Test acc. (%)", "96.32 ± 0.09", 299),
    ("late-phase/table-2", "SGD", "Base", "81.35 ± 0.16", 313),
    ("late-phase/table-2", "SGD", "BatchNorm", "82.87 ± 0.22", 313),
    ("late-phase/table-2", "SGD", "Hypernetwork", "81.55 ± 0.31", 313),
    ("late-phase/table-2", "SWA", "BatchNorm", "83.06 ± 0.08", 314),
    ("late-phase/table-2", "SWA", "Deep ens.", "83.62", 314),
    ("late-phase/table-2", "SGD", "Late-phase full", "82.17 ± 0.15", 324),
    ("late-phase/table-3", "C10 WRN 28-14 (SWA)", "Late-phase", "97.45 ± 0.10", 342),
    ("late-phase/table-3", "C100 PyramidNet (SGD)", "Base", "84.04 ± 0.28", 344),
    ("late-phase/table-4", "Late-phase BatchNorm (SGD)", "Test acc. (%)", "82.87 ± 0.14", 383),
    ("late-phase/table-4", "Late-phase BatchNorm (SGD)", "OOD", "0.8360 ± 0.0118", 383),
    ("late-phase/table-4", "Late-phase Hypernetwork (SGD)", "OOD", "0.8209 ± 0.00168", 382),
    ("late-phase/table-4", "Late-phase Hypernetwork (SGD)", "Test acc. (%)", "81.55 ± 0.32", 382),
    ("late-phase/table-4", "BatchEnsemble (SGD)", "OOD", "0.8285 ± 0.0189", 386),
    ("late-phase/table-4", "MC-Dropout (SGD)", "Test NLL", "0.7105 ± 0.0026", 384),
    ("late-phase/table-4", "SWAG (SWA)", "Test NLL", "0.6189 ± 0.0036", 385),
    ("late-phase/table-5", "ResNet-50", "Initial", "76.15", 451),
    ("late-phase/table-5", "DenseNet-161", "Late-phase", "78.31 ± 0.01", 453),
    ("late-phase/table-6", "Late-phase Rank1", "Test", "1.633", 471),
    ("late-phase/table-6", "Base", "Test (SWA)", "1.626", 469),
    ("late-phase/table-8", "15", "Test acc. (%)", "83.01 ± 0.27", 910),
    ("late-phase/table-9", "Late-phase BatchNorm", "Test acc. (%)", "82.02 ± 0.12", 930),
    ("late-phase/table-9", "Late-phase BatchNorm, frozen base weight", "Test acc. (%)", "81.50 ± 0.20", 931),
    ("late-phase/table-10", "Base + gradient accumulation (γθ = 1/K)", "Test acc. (%)", "80.34 ± 0.28", 956),
    ("late-phase/table-11", "0.25", "LPBN OOD", "0.836 ± 0.012", 964),
    ("late-phase/table-11", "0.25", "pretrained acc. (%)", "82.02 ± 0.12", 964),
    ("late-phase/table-11", "1.0", "LPBN acc. (%)", "81.52 ± 1.09", 967),
    ("late-phase/table-12", "0", "CIFAR-100", "74.38 ± 0.71", 1007),
    ("late-phase/table-12", "0 in the text", "CIFAR-100", "80.26 ± 0.42", 323),
    ("late-phase/table-12", "120", "CIFAR-10", "96.48 ± 0.20", 1012),
    ("late-phase/table-12", "0", "CIFAR-10", "95.68 ± 0.23", 1007),
    ("late-phase/table-13", "MC-Dropout, p = 0.2", "OOD", "0.8225 ± 0.0488", 982),
    ("late-phase/table-13", "Dropout, p = 0.3", "Test NLL", "0.8342 ± 0.0098", 980),
    ("late-phase/table-14", "CIFAR-100 - late-phase BatchNorm", "Training loss", "0.0267 ± 0.0004", 1028),
    ("late-phase/table-15", "Late-phase BN (SGD)", "Test acc. (%)", "89.58 ± 0.19", 1033),
    ("late-phase/table-16", "BatchEnsemble", "SVHN", "0.848 ± 0.020", 1082),
    ("late-phase/table-16", "LPBN", "mCE", "45.59 ± 0.25", 1076),
    ("late-phase/table-16", "Deep ens. (LPBN)", "LSUN", "0.884", 1084),
    ("late-phase/table-17", "Base (SGD)", "seconds", "17714", 1088),
    ("late-phase/table-17", "Late-phase BN (SGD)", "hours", "4.94", 1089),
    ("hypernetworks/table-4", "C10", "Ours (N=1)", "1125 ± 9", 202),
    ("hypernetworks/table-4", "C10", "Ours (N=10)", "1081 ± 4", 202),
    ("hypernetworks/table-4", "C100", "Ours (N=1)", "6848 ± 127", 203),
    ("hypernetworks/table-4", "C100", "Ours (N=10)", "6259 ± 177", 203),
    ("hypernetworks/table-s8", "C100 · ASGD · η = 0.01 (N=1)", "LSUN", "82.28 ± 0.2.17", 465),
    ("hypernetworks/table-s11", "C100 · 15.6Mio", "SVHN", "84.00 ± 0.3.80", 501),
    ("hypernetworks/table-s7", "C10 · N = 5", "TIN", "98.14 ± 0.09", 450),
    ("hypernetworks/table-3", "C10 · ASGD · IE", "TIN", "98.26", 173),
    ("hypernetworks/table-3", "C100 · SGD · IE", "TIN", "88.38", 177),
    ("hypernetworks/table-s6", "C10 · WRN 28-18", "Ours", "97.62 ± 0.08", 435),
    ("hypernetworks/table-1", "C100", "SWAG", "82.13 ± 0.03", 135),
    ("hypernetworks/table-3", "C100 · ASGD · SWAG", "Test acc.", "82.12 ± 0.03", 181),
    ("hypernetworks/table-1", "FM", "SWAG", "95.42 ± 0.06", 133),
    ("hypernetworks/table-s2", "ASGD · SWAG", "Test acc.", "95.45 ± 0.02", 375),
    ("hypernetworks/table-1", "C10", "FGE", "96.35 ± 0.1", 134),
    ("hypernetworks/table-1", "C100", "FGE", "82.3 ± 0.2", 135),
    ("hypernetworks/table-3", "C100 · SGD · WRN (N=1)", "Test acc.", "80.68 ± 0.4", 174),
    ("hypernetworks/table-3", "C100 · SGD · WRN (N=1)", "CIFAR", "80.75 ± 0.34", 174),
    ("hypernetworks/table-3", "C100 · SGD · Ours (N=1)", "SVHN", "79.43 ± 5.31", 175),
    ("hypernetworks/table-3", "C100 · SGD · Ours", "Test acc.", "80.87 ± 0.32", 176),
    ("hypernetworks/table-3", "C100 · SGD · Ours", "CIFAR", "81.71 ± 0.15", 176),
    ("hypernetworks/table-3", "C100 · ASGD · Ours (scratch)", "TIN", "75.97 ± 3.55", 180),
    ("hypernetworks/table-3", "C100 · ASGD · SE", "LSUN", "76.98 ± 7.17", 182),
    ("hypernetworks/table-3", "C100 · ASGD · Late IE", "CIFAR", "81.42 ± 0.09", 183),
    ("hypernetworks/table-3", "C100 · ASGD · IE", "CIFAR", "82.48", 185),
    ("hypernetworks/table-1", "FM", "Ours", "95.80 ± 0.03", 133),
    ("hypernetworks/table-1", "C10", "IE", "96.70", 134),
    ("hypernetworks/table-1", "C100", "Ours", "83.03 ± 0.33", 135),
    ("hypernetworks/table-2", "FM", "ASGD (constant LR)", "91.12 ± 1.69", 140),
    ("hypernetworks/table-2", "C10", "NASGD (constant LR)", "96.73 ± 0.10", 141),
    ("hypernetworks/table-2", "C100", "NASGD", "83.03 ± 0.33", 142),
    ("hypernetworks/table-3", "C10 · ASGD · Ours", "SVHN", "99.07 ± 0.04", 172),
    ("hypernetworks/table-s2", "SGD · IE", "EMNIST", "96.75", 371),
    ("hypernetworks/table-s2", "ASGD · Ours", "KMNIST", "96.45 ± 0.87", 378),
    ("hypernetworks/table-s3", "C10 · σ = 0.0", "Test acc.", "96.57 ± 0.29", 388),
    ("hypernetworks/table-s3", "C100 · σ = 1.0", "CIFAR", "81.90 ± 0.49", 397),
    ("hypernetworks/table-s4", "C100 · T0 = 160", "SVHN", "88.08 ± 0.90", 415),
    ("hypernetworks/table-s5", "C100", "Ours", "83.30 ± 0.25", 425),
    ("hypernetworks/table-s5", "C10", "Ours (200)", "96.79 ± 0.07", 424),
    ("hypernetworks/table-s6", "C100 · WRN 28-18", "Params. (millions)", "118.2", 437),
    ("hypernetworks/table-s7", "C100 · N = 15", "Test acc.", "82.55 ± 0.58", 455),
    ("hypernetworks/table-s8", "C10 · NASGD · η = 0.01", "SVHN", "95.16 ± 0.92", 463),
    ("hypernetworks/table-s9", "C100", "Ours (NSGD)", "82.01 ± 0.07", 480),
    ("hypernetworks/table-s10", "C10", "15.6Mio", "96.71 ± 0.14", 489),
    ("hypernetworks/table-s11", "C10 · 15.6Mio", "TIN", "96.75 ± 0.50", 499),
    ("hypernetworks/table-s12", "C10 · LL+BN", "@ epoch 300", "96.77 ± 0.13", 507),
    ("hypernetworks/table-s13", "C100 · LL", "LSUN", "82.42 ± 4.36", 517),
    ("hypernetworks/figure-2", "C10", "ASGD", "95.57 ± 0.18", 141),
    ("hypernetworks/figure-2", "C10", "NASGD", "96.73 ± 0.10", 141),
    ("subspaces/figure-3", "β = 0", "CIFAR10", "13", 151),
    ("subspaces/figure-3", "β = 0", "ImageNet", "40", 151),
    ("subspaces/figure-3", "β = 1", "ImageNet", "127", 151),
    ("subspaces/figure-3", "Independently trained", "ImageNet", "173", 151),
]


def lines_of(paper):
    """Read a paper's text; skip without it."""
    if not (folder := os.environ.get("ECON_PAPERS")):
        pytest.skip("needs a folder with the papers' texts, $ECON_PAPERS")
    text = (
        Path(folder, FILES[paper]).read_text(encoding="utf-8").replace("∙", ".").replace(r"\pm", "±").replace("$", "")
    )
    return text.splitlines()


def stands_in(line, value):
    """Return whether a line contains a value with exactly these digits, and its spread if it has one."""
    mean, _, std = value.partition(" ± ")
    pattern = rf"(?<![\d.]){re.escape(mean)}(?!\d)" + (rf"\s?±\s?{re.escape(std)}(?!\d)" if std else "")
    return re.search(pattern, line) is not None


def cell(study, row, column):
    values = load_paper(study)
    rows, columns = [r.name for r in values.rows], [c.name for c in values.columns]
    return values.values[rows.index(row)][columns.index(column)]


def rising(lines):
    """Return whether one line number can be chosen from each list so that they are ascending."""
    last = -1
    for each in lines:
        last = min((line for line in each if line > last), default=None)
        if last is None:
            return False
    return True


PAPERS = {}


def load_paper(study):
    if study not in PAPERS:
        PAPERS[study] = load(study).paper
    return PAPERS[study]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """Networks are not built here."""
    monkeypatch.setattr("harness.studies.study.check_grid", lambda grid, methods, errors: None)


def test_enough_numbers_are_checked_by_hand():
    assert len(set(CHECKED)) == len(CHECKED) >= 60


@pytest.mark.parametrize(("study", "row", "column", "value", "line"), CHECKED)
def test_a_value_checked_by_hand_stands_in_the_study_and_on_its_line_of_the_text(study, row, column, value, line):
    assert cell(study, row, column) == value
    text = lines_of(study.partition("/")[0])
    assert stands_in(text[line - 1], value), text[line - 1]


@pytest.mark.parametrize("name", [n for n in study_names() if "/table-" in n])
def test_every_row_of_a_table_stands_on_one_line_of_the_text(name):
    """All values of a row are in order on one line, and so are the rows. No value can be wrong or swapped unnoticed."""
    lines = lines_of(name.partition("/")[0])
    paper = load_paper(name)
    found = []
    for row, values in zip(paper.rows, paper.values, strict=True):
        stated = [value for value in values if read_value(value)]
        if (name, row.name) in STATED_IN_PROSE:
            assert all(any(stands_in(line, value) for line in lines) for value in stated)
            continue
        parts = [part for value in stated for part in value.split(" ± ")]
        pattern = r"(?<![\d.])" + r"(?!\d).*?(?<![\d.])".join(map(re.escape, parts)) + r"(?!\d)"
        found.append([i for i, line in enumerate(lines) if re.search(pattern, line)])
        assert found[-1], (name, row.name, values)
    assert rising(found), (name, "the rows are not in the order of the lines", found)


def test_rows_are_in_order_where_some_choice_of_lines_rises():
    assert rising([[7], [2, 8], [8, 9]]) and not rising([[7], [2, 8], [8]]) and not rising([[3], [2]])


INCONSISTENT = [
    ("late-phase/table-12", "0", "CIFAR-100", "80.26 ± 0.42"),
    ("late-phase/table-12", "0 in the text", "CIFAR-100", "74.38 ± 0.71"),
    ("late-phase/table-12", "120", "CIFAR-10", "96.46 ± 0.15"),
    ("late-phase/table-1", "Late-phase (SGD)", "Test acc. (%)", "96.48 ± 0.20"),
    ("late-phase/table-4", "Late-phase BatchNorm (SGD)", "Test acc. (%)", "± 0.22"),
    ("late-phase/table-4", "Late-phase BatchNorm (SGD)", "OOD", "σ0 = 0.25"),
    ("late-phase/table-4", "Late-phase Hypernetwork (SGD)", "OOD", "± 0.0168"),
    ("late-phase/table-4", "Late-phase Hypernetwork (SGD)", "Test acc. (%)", "± 0.31"),
    ("late-phase/table-2", "SGD", "Hypernetwork", "± 0.32"),
    ("late-phase/table-4", "BatchEnsemble (SGD)", "OOD", "0.8313"),
    ("late-phase/table-16", "BatchEnsemble", "SVHN", "0.8313"),
    ("hypernetworks/table-s8", "C100 · ASGD · η = 0.01 (N=1)", "LSUN", "likely 2.17"),
    ("hypernetworks/table-s11", "C100 · 15.6Mio", "SVHN", "likely 3.80"),
    ("hypernetworks/table-s7", "C10 · N = 5", "TIN", "likely 96.14"),
    ("hypernetworks/table-3", "C10 · ASGD · IE", "TIN", "likely 96.26"),
    ("hypernetworks/table-3", "C100 · SGD · IE", "TIN", "suspect"),
    ("hypernetworks/table-3", "C100 · ASGD · SWAG", "Test acc.", "82.13 ± 0.03"),
    ("hypernetworks/table-1", "C100", "SWAG", "82.12 ± 0.03"),
    ("hypernetworks/table-1", "FM", "SWAG", "95.45 ± 0.02"),
    ("hypernetworks/table-s2", "ASGD · SWAG", "Test acc.", "95.42 ± 0.06"),
    ("hypernetworks/table-1", "C10", "FGE", "quoted from Garipov"),
]
"""(study, row, column, part of the note on the value)"""


@pytest.mark.parametrize(("study", "row", "column", "said"), INCONSISTENT)
def test_what_is_inconsistent_is_shown_as_printed_with_a_note(study, row, column, said):
    frame = load(study).published_values().set_index(["row", "column"])
    assert said in frame.loc[(row, column), "note"]


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("hypernetworks/table-4", "sums over the 10,000 test images"),
        ("hypernetworks/table-s3", "is of its Table 3"),
        ("hypernetworks/table-s4", "is of its Table 3"),
        ("hypernetworks/table-s7", "is of its Table 3"),
        ("hypernetworks/table-s6", "WRN-18"),
        ("late-phase/table-6", "does not state the length of back-propagation"),
    ],
)
def test_the_remark_on_a_whole_table_is_printed_below_it(study, said):
    assert said in load_paper(study).remark


def test_tables_that_state_the_same_agree_or_say_so():
    """The base network on CIFAR-100, late-phase BatchNorm, our ensembles: the same in each table that has them."""
    same = {
        "81.35 ± 0.16": [
            ("late-phase/table-2", "SGD", "Base"),
            ("late-phase/table-8", "1", "Test acc. (%)"),
            ("late-phase/table-9", "Initial", "Test acc. (%)"),
            ("late-phase/table-12", "200", "CIFAR-100"),
            ("late-phase/table-10", "Base (SGD)", "Test acc. (%)"),
            ("late-phase/table-4", "Base (SGD)", "Test acc. (%)"),
        ],
        "82.87 ± 0.22": [
            ("late-phase/table-2", "SGD", "BatchNorm"),
            ("late-phase/table-8", "10", "Test acc. (%)"),
            ("late-phase/table-11", "0", "LPBN acc. (%)"),
            ("late-phase/table-12", "120", "CIFAR-100"),
        ],
    }
    for value, places in same.items():
        assert {cell(*place) for place in places} == {value}
