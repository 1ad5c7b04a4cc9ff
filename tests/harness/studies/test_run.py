"""Tests of what changes a run's key, and what does not."""

import json

import numpy as np
import pytest

from harness.parsing.method_expression import MethodSpec, parse_method
from harness.studies.run import DatasetSpec, Run
from harness.studies.study import with_digest
from methods import METHODS, Recipe
from methods.core.declarations import Need
from methods.core.recipe import Constant, Linear

SPEC = Run(
    dataset=DatasetSpec(name="digits", train_size=200),
    architecture="lenet5",
    method=MethodSpec(
        name="swa",
        hyperparameters={"start": 2},
        of=MethodSpec(name="late_phase_bn", hyperparameters={"K": 2, "start": 0.25}),
    ),
    seed=3,
    recipe=Recipe(epochs=4, lr=0.05, schedule=Linear(kind="linear", end=0.8)),
)


def test_golden_key():
    """If this fails, all finished runs of all users would start anew. Is that intended?"""
    assert SPEC.spec() == {
        "architecture": "lenet5",
        "dataset": {"name": "digits", "train_size": 200},
        "method": {
            "hyperparameters": {"start": 2},
            "name": "swa",
            "of": {"hyperparameters": {"K": 2, "start": 0.25}, "name": "late_phase_bn"},
        },
        "recipe": {"epochs": 4, "lr": 0.05, "schedule": {"end": 0.8, "kind": "linear"}},
        "seed": 3,
    }
    assert SPEC.key == "956eb855c2bd790fe7e187034502feaf02a960b3803f19f63e07869479e936d5"


def test_golden_key_of_the_plainest_run():
    run = Run(
        dataset=DatasetSpec(name="digits"),
        architecture="lenet5",
        method=MethodSpec(name="sgd"),
        seed=0,
        recipe=Recipe(epochs=1),
    )
    assert run.key == "0c37522119625d75dafa8bf709e397f18e511969757927556307e464116a9a60"


def changed(**update: object) -> Run:
    return SPEC.model_copy(update=update)


@pytest.mark.parametrize(
    "same",
    [
        changed(precision="float32"),
        changed(dataset=DatasetSpec(name="digits", train_size=200, validation=None)),
        changed(recipe=SPEC.recipe.model_copy(update={"momentum": 0.9, "nesterov": True, "batch_size": 128})),
        changed(method=SPEC.method.model_copy(update={"version": 1})),
    ],
)
def test_fields_at_their_default_do_not_change_it(same):
    assert same.key == SPEC.key


@pytest.mark.parametrize(
    "other",
    [
        changed(seed=4),
        changed(architecture="cresnet20"),
        changed(precision="bfloat16"),
        changed(dataset=DatasetSpec(name="digits", train_size=201)),
        changed(dataset=DatasetSpec(name="digits", train_size=200, validation=0)),
        changed(recipe=SPEC.recipe.model_copy(update={"schedule": Constant()})),
        changed(recipe=SPEC.recipe.model_copy(update={"lr": 0.05000001})),
        changed(method=SPEC.method.model_copy(update={"version": 2})),
        changed(method=SPEC.method.model_copy(update={"of": SPEC.method.of.model_copy(update={"version": 2})})),
        changed(method=SPEC.method.model_copy(update={"hyperparameters": {"start": 2.0}})),
        changed(method=SPEC.method.model_copy(update={"of": None})),
    ],
)
def test_whatever_changes_the_result_changes_it(other):
    assert other.key != SPEC.key


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("late_phase_bn(K=10, start=0.6, gamma_theta=1, sigma0=0)", "late_phase_bn"),
        ("swa(late_phase_bn(K=10), ratio=0.5)", "swa(late_phase_bn)"),
        ("late_phase_bn(sigma0=0.1, K=3)", "late_phase_bn(K=3, sigma0=0.1)"),
        ("late_phase_bn(prediction='members', K='3')", "late_phase_bn(K=3, prediction=members)"),
        ("deep_ensemble(sgd, K=3)", "deep_ensemble(K=3)"),
        ("swa(sgd)", "swa"),
    ],
)
def test_a_hyperparameter_at_its_default_is_absent(long, short):
    (one, _), (two, _) = parse_method(long, METHODS), parse_method(short, METHODS)
    assert changed(method=one).key == changed(method=two).key


def test_a_spec_read_back_from_its_folder_has_the_same_key():
    text = json.dumps(SPEC.spec())
    assert Run.model_validate(json.loads(text)) == SPEC
    assert Run.model_validate(json.loads(text)).key == SPEC.key


def test_the_content_of_an_npz_file_decides_not_its_path(tmp_path):
    arrays = {"x_train": np.zeros((2, 8, 8), np.uint8)}
    (tmp_path / "elsewhere").mkdir()
    paths = [tmp_path / "a.npz", tmp_path / "elsewhere" / "b.npz"]
    for path in paths:
        np.savez(path, **arrays)
    runs = [changed(dataset=with_digest(DatasetSpec(name=f"npz:{path}"))) for path in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert runs[0].key == runs[1].key
    np.savez(paths[1], x_train=np.ones((2, 8, 8), np.uint8))
    again = changed(dataset=with_digest(DatasetSpec(name=f"npz:{paths[1]}")))
    assert again.key != runs[0].key


def test_names_for_people():
    assert str(SPEC) == "swa(late_phase_bn(K=2, start=0.25), start=2) · lenet5 · digits train=200 · seed 3"
    assert DatasetSpec(name="npz:/some/where/cells.npz").label == "cells"


def test_what_is_needed_is_the_inner_method_or_plain_training():
    spec, _ = parse_method("deep_ensemble(swa(start=1), K=2)", METHODS)
    run = changed(method=spec)
    needed = run.needed(Need(seed=7), METHODS)
    assert (str(needed.method), needed.seed) == ("swa(start=1)", 7)
    assert needed.model_copy(update={"method": run.method, "seed": run.seed}) == run
    plain, _ = parse_method("deep_ensemble(K=2)", METHODS)
    assert changed(method=plain).needed(Need(0), METHODS).method == MethodSpec(name="sgd")
