"""Tests of the extra measurements that a study can request, and of the runs that they need."""

import pytest

from harness.parsing.yaml_errors import StudyError
from harness.planning.plan import Plan, shape
from harness.planning.schedule import Schedule
from harness.studies.build_method import build_meta_method, count_anchors
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement, PlaneMeasurement
from harness.studies.study import load
from methods import METHODS

FOUR = ["sgd", "line", "simplex", "hypernet_ensemble(K=2, start=1)"]


def asking(write_study, tmp_path, methods=("line",), **evaluate):
    return load(str(write_study(tmp_path / "s.yaml", methods=list(methods), evaluate=evaluate)))


def test_what_is_not_asked_for_is_no_part_of_a_runs_key(make_run):
    run = make_run("line")
    assert "evaluate" not in run.spec()
    assert run.key == run.model_copy(update={"evaluate": ExtraMeasurements(each_epoch=())}).key
    asked = run.model_copy(update={"evaluate": ExtraMeasurements(path=PathMeasurement())})
    assert asked.spec()["evaluate"] == {"path": {}} and asked.key != run.key


def test_the_same_request_makes_the_same_run(make_run):
    def key(**asked):
        return make_run("line").model_copy(update={"evaluate": ExtraMeasurements.model_validate(asked)}).key

    assert key(each_epoch=["test", "distances"]) == key(each_epoch=["distances", "test", "test"])
    assert key(flatness={"sigmas": [0.1, 0, 0.1]}) == key(flatness={"sigmas": [0, 0.1]})
    assert key(flatness={"sigmas": [0, 0.1]}) != key(flatness={"sigmas": [0, 0.2]})
    assert key(path={"points": 21}) == key(path={}) != key(path={"points": 5})


def test_a_study_asks_for_all_its_cells_and_true_means_the_defaults(write_study, tmp_path):
    study = asking(write_study, tmp_path, ["sgd", "line"], path=True, flatness={"draws": 3}, training_loss=True)
    expected = ExtraMeasurements(path=PathMeasurement(), flatness=FlatnessMeasurement(draws=3), training_loss=True)
    assert [cell.run.evaluate for cell in study.cells()] == [expected, expected]
    assert FlatnessMeasurement().draws >= 10 and FlatnessMeasurement().sigmas[0] == 0.0


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"plane": {"point": 3}}, "evaluate.plane.point: unknown key"),
        ({"path": {"points": 1}}, "evaluate.path.points: Input should be greater than or equal to 2"),
        ({"plane": {"third": "swa"}}, "evaluate.plane.third: Input should be 'sgd'"),
        ({"flatness": {"sigmas": []}}, "evaluate.flatness.sigmas: Tuple should have at least 1 item"),
        ({"flatness": {"sigmas": [0.1, -1]}}, "evaluate.flatness.sigmas[1]: Input should be greater than or equal"),
        ({"each_epoch": ["train"]}, "evaluate.each_epoch[0]: Input should be 'test' or 'distances'"),
        ({"path": None}, "evaluate: path is empty; write `path: true` for its defaults, or leave it out"),
        ({"flatnes": True}, "evaluate.flatnes: unknown key"),
    ],
)
def test_errors_are_reported_with_their_location(write_study, tmp_path, evaluate, message):
    with pytest.raises(StudyError) as error:
        asking(write_study, tmp_path, **evaluate)
    text = str(error.value)
    assert message in text
    lines = (tmp_path / "s.yaml").read_text().splitlines()
    number = int(text.split("s.yaml:")[1].split(":")[0])
    assert "evaluate" in "".join(lines[:number]) and number <= len(lines)


def test_what_no_method_can_give_is_refused_with_the_reason(write_study, tmp_path):
    for evaluate, needed in (
        ({"path": True}, "evaluate.path: no method of this study has the two networks that"),
        ({"each_epoch": ["distances"]}, "evaluate.each_epoch: no method of this study has the two networks that"),
        ({"plane": {"third": "sgd"}}, "evaluate.plane: no method of this study has the two networks that"),
        ({"plane": True}, "evaluate.plane: no method of this study has the three networks, or with `third: sgd` two,"),
    ):
        with pytest.raises(StudyError, match=needed):
            asking(write_study, tmp_path, ["sgd", "swa(start=1)"], **evaluate)
    with pytest.raises(StudyError, match="three networks"):
        asking(write_study, tmp_path, ["sgd", "line"], plane=True)
    asking(write_study, tmp_path, ["sgd", "line"], path=True, plane={"third": "sgd"}, each_epoch=["distances"])
    asking(write_study, tmp_path, ["sgd", "simplex"], plane=True)
    asking(write_study, tmp_path, ["sgd"], flatness=True, training_loss=True, each_epoch=["test"])


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("sgd", 1),
        ("line", 2),
        ("curve", 3),
        ("simplex(m=5)", 4),  # it counts no further
        ("late_phase_bn(K=3, start=1)", 3),
        ("swa(late_phase_bn(K=3, start=1), start=2)", 3),
        ("hypernet_ensemble(K=2, start=1)", 2),
        ("snapshot(M=3)", 3),
        ("deep_ensemble(K=2)", 2),
        ("early_stopping(line)", None),  # which state was best shows in training
        ("swag(start=1, N=3)", 3),
        ("batch_ensemble(K=3)", 3),
    ],
)
def test_anchors_are_counted_before_training(make_run, method, count):
    run = make_run(method)
    assert count_anchors(build_meta_method(run, METHODS, shape(run))) == count


def test_the_third_network_of_a_plane_is_a_reference_run_and_no_part_of_its_cost(write_study, tmp_path):
    plan = Plan(asking(write_study, tmp_path, FOUR, plane={"third": "sgd"}))
    runs = {str(planned.run.method): planned for planned in plan.runs.values()}
    plain = runs["sgd"].run.key
    reference_runs = {name: planned.reference_runs for name, planned in runs.items()}
    assert reference_runs == {"sgd": (), "line": (plain,), "simplex": (), "hypernet_ensemble(K=2, start=1)": (plain,)}
    assert runs["line"].needs == () and runs["line"].after == (plain,)
    assert plan.epochs_as_written(runs["line"].run.key) == 3
    alone = Plan(asking(write_study, tmp_path, ["line"], plane={"third": "sgd"}))
    assert [(str(p.run.method), p.role) for p in alone.runs.values()] == [("sgd", "component"), ("line", "cell")]
    schedule = Schedule(alone.runs, set())
    first = schedule.take()
    assert str(alone.runs[first].run.method) == "sgd" and schedule.take() is None, "the line waits for it"


def test_a_plane_that_asks_for_no_third_network_adds_no_run(write_study, tmp_path):
    plan = Plan(asking(write_study, tmp_path, ["line", "simplex"], plane=True))
    assert len(plan.runs) == 2 and PlaneMeasurement().third is None
