"""Tests that published values in a study are parsed, and matched with cells."""

import json
import math

import pytest

from harness.parsing.yaml_errors import StudyError
from harness.studies.metric_names import metric_names
from harness.studies.paper_values import NO_VALUE, PublishedValue, read_value
from harness.studies.study import load

TEXT = """\
datasets: [{name: digits}, {name: digits, label_noise: 0.5}]
architectures: [lenet5]
seeds: [0]
recipe: {epochs: 2}
methods: [a: sgd, b, swa: swa]
paper:
  source: Nobody 2021, Table 1
  seeds: 3
  select: {dataset: digits}
  rows: [a, {second: {method: swa}}, {noisy: {method: a, dataset: digits label_noise=0.5}}]
  columns: [acc, {OOD: {metric: ood_auroc, times: 100}}]
  values:
    - [96.16 ± 0.12, "98.5"]
    - ["95", –]
    - [1.250 ± 0.031, "7"]
  notes: [{row: a, text: whole row}, {row: a, column: OOD, text: one value}]
""".replace("b, swa: swa", "swa: swa")


def study(tmp_path, text=TEXT):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return load(str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("81.35 ± 0.16", PublishedValue("81.35 ± 0.16", 81.35, 0.16, 2)),
        ("0.8209 ± 0.00168", PublishedValue("0.8209 ± 0.00168", 0.8209, 0.00168, 4)),
        ("82.28 ± 0.2.17", PublishedValue("82.28 ± 0.2.17", 82.28, 2.17, 2)),
        ("84.09", PublishedValue("84.09", 84.09, None, 2)),
        ("1125 ± 9", PublishedValue("1125 ± 9", 1125, 9, 0)),
        ("-0.5", PublishedValue("-0.5", -0.5, None, 1)),
        (NO_VALUE, None),
    ],
)
def test_values_are_read(text, expected):
    assert read_value(text) == expected


@pytest.mark.parametrize("text", ["81.35±0.16", "81.35 +- 0.16", "", "n/a", "~ 5", "1 ± 2 ± 3", "nan"])
def test_what_is_no_value(text):
    with pytest.raises(ValueError, match="expected a value like '81.35 ± 0.16'"):
        read_value(text)


def test_each_value_finds_its_cells(tmp_path):
    frame = study(tmp_path).published_values()
    assert frame.attrs["source"] == "Nobody 2021, Table 1" and frame.attrs["seeds"] == 3
    rows = frame.set_index(["row", "column"])
    assert list(rows.loc[("a", "acc"), ["dataset", "label", "metric", "times"]]) == ["digits", "a", "accuracy", 1.0]
    assert list(rows.loc[("second", "OOD"), ["label", "metric", "times"]]) == ["swa", "ood_auroc", 100.0]
    assert rows.loc[("noisy", "acc"), "dataset"] == "digits label_noise=0.5"
    assert list(rows.loc[("a", "acc"), ["paper_mean", "paper_std", "paper_n", "decimals"]]) == [96.16, 0.12, 3, 2]
    assert rows.loc[("a", "OOD"), "paper_n"] == 1 and math.isnan(rows.loc[("a", "OOD"), "paper_std"])
    assert rows.loc[("second", "OOD"), "paper_n"] == 0 and math.isnan(rows.loc[("second", "OOD"), "paper_mean"])
    assert rows.loc[("a", "acc"), "note"] == "whole row" and rows.loc[("a", "OOD"), "note"] == "whole row one value"


def test_names_of_row_and_column_make_a_label(tmp_path):
    text = TEXT.replace("[a: sgd, swa: swa]", "[a acc: sgd, a OOD: swa]")
    text = text.replace("select: {dataset: digits}", "select: {dataset: digits, method: '{row} {column}'}")
    rows = "rows: [a, {second: {method: swa}}, {noisy: {method: a, dataset: digits label_noise=0.5}}]"
    text = text.replace(rows, "rows: [a]").replace('    - ["95", –]\n    - [1.250 ± 0.031, "7"]\n', "")
    assert list(study(tmp_path, text).published_values()["label"]) == ["a acc", "a OOD"]


def test_corruptions_are_called_as_they_are_measured(tmp_path):
    text = TEXT.replace("metric: ood_auroc", "metric: corruption_error")
    assert study(tmp_path, text).published_values()["metric"][1] == "generated/corruption_error"
    text = text.replace("{name: digits}", "{name: digits, corruptions: none}")
    assert study(tmp_path, text).published_values()["metric"][1] == "corruption_error"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[96.16 ± 0.12,", "[96.16±0.12,"), "expected a value like '81.35 ± 0.16', or '–' for none"),
        (('    - ["95", –]\n', ""), "3 rows have 2 lines of values"),
        (('["95", –]', '["95"]'), "row second: 2 columns have 1 values"),
        (("rows: [a,", "rows: [b,"), "a note is on the row 'a'"),
        (("{method: swa}", "{method: swag}"), "row second, column acc: the study has no 'digits · swag'"),
        (("select: {dataset: digits}", "select: {}"), "row a, column acc: it means digits · lenet5 · a and"),
        (("row: a, text", "row: c, text"), "a note is on the row 'c'"),
        (("column: OOD, text", "column: ODD, text"), "a note is on the column 'ODD'; did you mean 'OOD'?"),
        (("rows: [a, {second", "rows: [a, {a"), "two rows have the name a"),
        (("  seeds: 3\n", ""), "'seeds' is missing"),
        (('["95", –]', "[95.50, –]"), "values[1][0]: put 95.5 into quotes, as the paper writes it with all its digits"),
        (("times: 100", "tims: 100"), "unknown key"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, change, expected):
    text = TEXT.replace(*change)
    with pytest.raises(StudyError) as error:
        study(tmp_path, text)
    assert expected in str(error.value) and "s.yaml:" in str(error.value)


def test_a_study_without_a_paper_states_nothing():
    assert load("digits").published_values() is None


def test_a_value_may_be_over_runs_of_its_own_or_over_how_many_is_not_stated(tmp_path):
    text = TEXT.replace("{noisy: {", "{noisy: {runs: 0, ").replace("times: 100", "times: 100, runs: 7")
    counts = study(tmp_path, text).published_values().set_index(["row", "column"])["paper_n"]
    assert counts.to_dict() == {
        ("a", "acc"): 3,
        ("a", "OOD"): 7,
        ("second", "acc"): 1,
        ("second", "OOD"): 0,
        ("noisy", "acc"): 0,
        ("noisy", "OOD"): 7,
    }


def test_what_the_study_cannot_run_has_no_cells(tmp_path):
    frame = study(tmp_path, TEXT.replace("{method: swa}", "{method: none}")).published_values()
    assert list(frame[frame["row"] == "second"]["label"]) == ["", ""]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("metric: ood_auroc", "metric: ood_aurocc"),
            "s.yaml:11: paper.columns[1]: unknown metric 'ood_aurocc'",
        ),
        (("metric: ood_auroc", "metric: ood_auroc/svhn"), "unknown metric 'ood_auroc/svhn'"),
        (
            ("{method: swa}", "{method: swa, metric: acuracy}"),
            "paper.rows[1]: unknown metric 'acuracy'; did you",
        ),
        (
            ("select: {", "select: {metric: nil, "),
            "s.yaml:9: paper.select: unknown metric 'nil'; did you mean 'nll'?",
        ),
        (("metric: ood_auroc", "metric: ece_20"), "unknown metric 'ece_20'; did you mean 'ece'?"),
        (("metric: ood_auroc", "metric: corruption_error/fogg"), "did you mean 'corruption_error/fog'?"),
    ],
)
def test_a_metric_that_no_run_can_have_is_refused(tmp_path, change, expected):
    with pytest.raises(StudyError) as error:
        study(tmp_path, TEXT.replace(*change))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        ("ood_auroc/photographs", ""),
        ("generated/corruption_error/fog", ""),
        ("spent/train_seconds", ""),
        ("ece_20", "evaluate: {calibration_bins: 20}\n"),
        ("logit_average/ece_20", "evaluate: {calibration_bins: 20}\n"),
    ],
)
def test_a_metric_may_be_of_one_ood_dataset_or_corruption_or_of_further_bins(tmp_path, metric, more):
    frame = study(tmp_path, more + TEXT.replace("metric: ood_auroc", f"metric: {metric}")).published_values()
    assert metric in set(frame["metric"])


def test_an_empty_paper_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"s\.yaml:6: paper: it is empty; write what the paper states, or leave"):
        study(tmp_path, TEXT.partition("paper:")[0] + "paper:\n")
    with pytest.raises(StudyError, match="'source' is missing"):
        study(tmp_path, TEXT.partition("paper:")[0] + "paper: {}\n")


EVERYTHING = """\
datasets: [{dataset}]
architectures: [{network}]
seeds: [0]
recipe: {{epochs: 2, batch_size: {batch}}}
evaluate: {{training_loss: true, calibration_bins: 20{more}}}
methods: ["deep_ensemble(K=2)"]
"""


def tracked_names(result):
    """Return the names under which a result's metrics are tracked."""
    groups = {f"{group}/{name}" for group in ("cost", "spent") for name in result[group]}
    return {*result["metrics"], *groups, *result["timing"]} - {"finished"}


def test_the_names_of_metrics_are_those_of_runs(tmp_path, run_study):
    """For images and text. Only GPU metrics and the top-5 accuracy of 100 classes do not occur here."""
    found, known = set(), set()
    for name, dataset, network, batch, more in (
        (
            "images",
            "{name: digits, validation: 64, train_size: 64}",
            "lenet5",
            16,
            ", path: true",
        ),
        ("text", "{name: synthetic_text:enwik8, train_size: 4000, validation: 600, segment: 20}", "lstm-4", 10, ""),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_text(EVERYTHING.format(dataset=dataset, network=network, batch=batch, more=more))
        done = run_study(file, tmp_path / "runs")
        assert not done.schedule.failed
        names = metric_names(load(str(file)).cell_groups())
        (cell,) = [key for key, planned in done.plan.runs.items() if planned.role == "cell"]
        tracked = tracked_names(json.loads((tmp_path / "runs" / cell / "result.json").read_text()))
        assert tracked <= set(names)
        found, known = found | tracked, known | set(names)
    rare = {"top5_accuracy", "logit_average/top5_accuracy", "cost/peak_memory_bytes", "spent/peak_memory_bytes"}
    left = {name for name in known - found if "corruption_error" not in name and "relative_change" not in name}
    assert left <= rare | {"logit_average/adaptive_ece"}
    assert {"generated/corruption_error", "generated/relative_change/contrast"} <= found
