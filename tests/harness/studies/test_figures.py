"""Tests that the figures of a study are checked when it is loaded: plots, options, names and cells."""

import inspect
from typing import get_type_hints

import pytest

from analysis import FIGURES
from harness.parsing.yaml_errors import StudyError
from harness.studies.figures import option_errors
from harness.studies.study import load

TEXT = """\
datasets: [digits]
architectures: [lenet5]
seeds: [0]
recipe: {{epochs: 2}}
methods: [a m = 1: sgd, a m = 2: swa]
figures:
  - {}
"""


def study(tmp_path, figure):
    path = tmp_path / "s.yaml"
    path.write_text(TEXT.format(figure))
    return load(str(path))


@pytest.mark.parametrize(
    "figure",
    [
        "{plot: value, x: m, metrics: [accuracy, ood_auroc/photographs], xscale: log}",
        "{plot: epochs, series: [train/loss], marks: {T0: 0.5, end: 2}, start: 1, name: über-2.b_c}",
        "{plot: methods, methods: [a m = 2], chosen_on_test: true}",
        "{plot: ranks, by: train_cost}",
        "{plot: corrupted_path, between: [0, 1], severities: [1, 3]}",
        "{plot: cost}",
    ],
)
def test_a_figure_that_can_be_drawn(tmp_path, figure):
    assert len(study(tmp_path, figure).file.figures) == 1


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (
            "{plot: valeu, x: m}",
            "figures[0].plot: there is no plot 'valeu'; did you mean 'value'? there are best",
        ),
        (
            "{plot: value}",
            "figures[0].plot: plot value needs the option 'x'; there are best_of, chosen_on_test,",
        ),
        (
            "{plot: value, x: m, metrcs: [nll]}",
            "figures[0].metrcs: plot value has no option 'metrcs'; did you mean 'metrics'? there are best_of,",
        ),
        ("{plot: flatness, x: m}", "figures[0].x: plot flatness has no option 'x'; it has none"),
        (
            "{plot: epochs, marks: [1]}",
            "figures[0].marks: plot epochs: marks = [1]: Input should be a valid dictionary; there are marks, series",
        ),
        ("{plot: epochs, marks: {T0: late}}", "marks = {'T0': 'late'}: Input should be a valid"),
        ("{plot: epochs, series: train/loss}", "series = 'train/loss': "),
        (
            "{plot: value, x: m, xscale: cubic}",
            "xscale = 'cubic': Input should be 'linear', 'log' or 'symlog'",
        ),
        ("{plot: value, x: m, chosen_on_test: 'no'}", "chosen_on_test = 'no': Input should be a valid boolean"),
        ("{plot: value, x: m, metrics: [acc]}", "metrics = ['acc']: unknown metric 'acc'"),
        ("{plot: value, x: m, metrics: [train_cost]}", "unknown metric 'train_cost'"),
        ("{plot: cost, by: acuracy}", "by = 'acuracy': unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("{plot: cost, name: a/b}", "figures[0].name: String should match pattern"),
        ("{plot: cost, methods: []}", "figures[0].methods: Tuple should have at least 1 item"),
        ("{plot: cost, datasets: []}", "figures[0].datasets: Tuple should have at least 1 item"),
        (
            "{plot: cost, methods: [a m = 3]}",
            "figures[0]: the study has no 'a m = 3'; did you mean 'a m = 2'?",
        ),
        ("{plot: cost}\n  - {plot: ranks}", "s.yaml:8: figures[1]: there is a figure of the name '' already"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_when_the_study_is_read(tmp_path, figure, expected):
    with pytest.raises(StudyError) as error:
        study(tmp_path, figure)
    assert expected in str(error.value) and "s.yaml:" in str(error.value)


@pytest.mark.parametrize("name", FIGURES)
def test_the_defaults_of_every_plot_are_of_the_types_that_it_states(tmp_path, name):
    """Default values of every plot's options are accepted, so the options' type annotations are right."""
    _, *parameters = inspect.signature(FIGURES[name]).parameters.values()
    assert {each.name for each in parameters} <= set(get_type_hints(FIGURES[name]))
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    needed = {each.name: "m" for each in parameters if each.default is each.empty}
    loaded = study(tmp_path, "{plot: cost}")
    (drawing,) = loaded.file.figures
    changed = type(drawing).model_validate({"plot": name, **needed, **defaults})
    assert option_errors(changed, list(loaded.cell_groups())) == []
