"""The studies of the three papers: that all are there, are well formed, and run from end to end at a tiny scale."""

import shutil
from pathlib import Path

import pytest

from analysis import FIGURES, document
from harness.studies import study as studies
from harness.studies.study import Study, load
from harness.studies.study_files import study_names
from tests.typeset import MULTIPLY, typeset

LATE_PHASE = [*(f"table-{i}" for i in (*range(1, 7), *range(8, 18))), *(f"figure-{i}" for i in (1, 2, 3, 6))]
HYPERNETWORKS = [
    *(f"table-{i}" for i in range(1, 5)),
    *(f"table-s{i}" for i in range(2, 14)),
    *(f"figure-{i}" for i in ("2", "3", "s2")),
]
SUBSPACES = [f"figure-{i}" for i in range(2, 22)]
PAPERS = [
    *(f"late-phase/{name}" for name in LATE_PHASE),
    *(f"hypernetworks/{name}" for name in HYPERNETWORKS),
    *(f"subspaces/{name}" for name in SUBSPACES),
]
OFTEN = ("late-phase/table-15", "hypernetworks/table-4", "subspaces/figure-2")
"""Quick ones, rehearsed whenever the tests run; the others are slow."""


def test_there_is_a_study_of_each_table_and_figure():
    assert len(PAPERS) == 59
    assert set(PAPERS) <= set(study_names())


@pytest.mark.parametrize("name", PAPERS)
def test_a_study_is_well_formed(name, monkeypatch):
    """Networks and methods are built where it is rehearsed."""
    monkeypatch.setattr(studies, "check_grid", lambda grid, methods, errors: None)
    study = load(name)
    assert study.name == name
    if not isinstance(study, Study):
        return
    assert study.file.description, "econ list studies shows the first line"
    table = "table" in name
    assert (study.paper is not None) >= table and bool(study.file.figures) >= (not table)
    for grid in study.grids:
        assert not any(dataset.validation for dataset in grid.datasets) or "early_stopping" in str(grid.methods)
    for drawing in study.file.figures:
        assert drawing.plot in FIGURES
    values = study.published_values()
    if values is not None:
        assert (values["label"] != "").any() and values["paper_mean"].notna().any()


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in (*PAPERS, "leaderboard")]
)
def test_a_study_is_rehearsed_from_end_to_end(name, run_here, tmp_path, monkeypatch, rehearsed):
    monkeypatch.chdir(tmp_path)

    def call(command, *more):
        code, printed, wrong = run_here(command, name, "--scale", "tiny", "--runs", tmp_path / "runs", *more)
        assert code == 0, printed + wrong

    call("run", "--threads", "1")  # the networks are tiny: threads would only wait for each other
    call("plot")
    study = load(name)
    drawn = sorted(Path("results").rglob("*.png"))
    assert drawn and all(path.with_suffix(suffix).stat().st_size for path in drawn for suffix in (".pdf", ".svg"))
    if not isinstance(study, Study):
        return
    if study.file.figures:
        assert len(drawn) == len(study.file.figures)
    tables = {}
    for suffix in ("tex", "md", "csv"):
        call("table", "--output", f"t.{suffix}")
        tables[suffix] = Path(f"t.{suffix}").read_text(encoding="utf-8")
    assert all("Rehearsal, not a result: at most" in tables[suffix] for suffix in ("tex", "md"))
    assert "missing" not in tables["tex"], "each value of the paper has its runs"
    assert "not measured" not in tables["tex"], "and each of them the metric"
    (rehearsed / f"{name.replace('/', '-')}.tex").write_text(tables["tex"], encoding="utf-8")
    for path in drawn:
        shutil.copy(path, rehearsed / f"{name.replace('/', '-')}-{path.name}")


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory):
    """Gather the tables and figures of what was rehearsed."""
    return tmp_path_factory.mktemp("rehearsed")


@pytest.mark.long
def test_all_tables_compile_in_one_document(rehearsed):
    files = sorted(rehearsed.glob("*.tex"))
    if not files:
        pytest.skip("nothing was rehearsed before")
    said = typeset(document(*(file.read_text(encoding="utf-8") for file in files)), rehearsed)
    assert MULTIPLY not in said, "two tables of one name"
