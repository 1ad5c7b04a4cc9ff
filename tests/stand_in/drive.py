"""Drives runs through all their phases on the stand-in device, and writes what was seen, one line of JSON a run.

    python -m tests.stand_in.drive [--only PATTERN] [--quick | --long] [--plugin FILE …]
    python -m tests.stand_in.drive --real     # the same runs on a GPU; nothing is watched then

Each run is trained once from beginning to end, and once interrupted after each epoch; the states must have equal bits.
"""

from tests.stand_in import device  # isort: skip - it starts the program again, with a shim

import argparse
import contextlib
import fnmatch
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from harness.costs.cost import CostCounter
from harness.evaluation import evaluate
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.running.distributed.group import SINGLE_PROCESS
from harness.running.execute import finish_in_process
from harness.running.settings import Settings
from harness.store import checkpoint
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder
from harness.studies.study import load
from tests.stand_in.cases import CASES, QUICK

WATCH = device.install()
SIDES = {"grey": (8, 1, 44), "colour": (32, 3, 24)}
"""The images of each kind of data: their side, their channels, and how many are trained on."""


class Interruption(Exception):  # noqa: N818 - no error
    """The run is interrupted here."""


# --- data and studies ---------------------------------------------------------------------------------------------


def draw_images(n, side, channels):
    """Draw n images of three classes, which differ in their bright rows."""
    y = np.arange(n) % 3
    x = np.random.default_rng(n).integers(0, 120, (n, side, side, channels))
    for i, c in enumerate(y):
        x[i, 2 * c : 2 * c + 3] += 100
    return (x.squeeze(-1) if channels == 1 else x).astype(np.uint8), y


def make_data(folder: Path) -> dict[str, str]:
    """Write images in arrays, images in files, and a text; return the names of these datasets."""
    found = {}
    for name, (side, channels, n) in SIDES.items():
        (x, y), (x_test, y_test) = draw_images(n, side, channels), draw_images(14, side, channels)
        noise = draw_images(6, side, channels)[0]
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test, ood_noise=noise)
        found[name] = f"npz:{folder / name}.npz"
    for part, n in (("train", 30), ("test", 9)):
        for i, (image, label) in enumerate(zip(*draw_images(n, 16, 3), strict=True)):
            place = folder / "files" / part / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return found | {"files": f"imagefolder:{folder / 'files'}", "text": f"text:{folder / 'text.txt'}"}


def write_case(path: Path, given: dict[str, Any], data: dict[str, str]) -> None:
    """Write the study of a case: `method`, and what differs from a small run of plain images."""
    kind = given.get("data", "grey")
    options: dict[str, Any] = {
        "text": {"segment": 12, "validation": 80},
        "files": {"image_size": 16, "validation": 8, "corruptions": "none"},
    }.get(kind, {"validation": 8, "corruptions": "none"})
    recipe = {"epochs": 4, "batch_size": 16, "lr": 0.05, "schedule": {"kind": "cosine"}}
    study = {
        "datasets": [{"name": data[kind], **options, **given.get("dataset", {})}],
        "architectures": [given.get("architecture", "lstm-8" if kind == "text" else "lenet5")],
        "seeds": [0],
        "recipe": recipe | given.get("recipe", {}),
        "methods": [given["method"]],
        "precision": given.get("precision", "float32"),
        "evaluate": given.get("evaluate", {"each_epoch": ["test"]}),
    }
    path.write_text(yaml.safe_dump(study, sort_keys=False))


# --- runs ---------------------------------------------------------------------------------------------------------


def run_study(study: Path, settings: Settings, *, report=lambda: None) -> str:
    """Run a study in this process, letting errors out; return the key of its only cell."""
    plan = Plan(load(str(study), settings.plugins))
    schedule = Schedule(plan.runs, plan.finished(settings.runs))
    while (key := schedule.take()) is not None:
        planned = plan.runs[key]
        folder = RunFolder(settings.runs, key)
        on_epoch = report if planned.role == "cell" else lambda: None
        needed = [*planned.needs, *planned.reference_runs]
        with folder.claim():
            finish_in_process(
                planned.run, settings, folder, needed, planned.trunks, planned.contained, group=SINGLE_PROCESS,
                report=on_epoch,
            )  # fmt: skip
        schedule.end(key, Outcome("finished"))
    return next(key for key, planned in plan.runs.items() if planned.role == "cell")


def run_interrupted(study: Path, settings: Settings) -> str:
    """Run a study in as many pieces as it has epochs."""
    left = iter(range(20))

    def interrupt() -> None:
        if next(left) < 3:
            raise Interruption

    while True:
        with contextlib.suppress(Interruption):
            return run_study(study, settings, report=interrupt)


def final_state(runs: Path, key: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a finished state by name."""
    state = checkpoint.load(RunFolder(runs, key).checkpoint, key).method
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def different_entries(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Name the tensors whose bits differ."""
    return [name for name, value in one.items() if not torch.equal(value.nan_to_num(), other[name].nan_to_num())]


def describe(error: BaseException) -> str:
    """Describe an error in one line, with the last line of the project that it passed through."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if device.is_own(f.filename)]
    at = f"{lines[-1].filename.removeprefix(device.ROOT)}:{lines[-1].lineno}" if lines else "?"
    return f"{type(error).__name__}: {error} at {at}"


TIMED: Counter[str] = Counter()
"""How many convolutions were seen for the first time inside of the seconds that a run reports."""


def watch_timed_parts() -> None:
    """Count in `TIMED` what cuDNN would search algorithms for while seconds are counted."""
    training, counting, logits = CostCounter.training, evaluate.forwards_per_example, evaluate.member_logits
    about_to_time = False

    @contextlib.contextmanager
    def timed_training(self, where):
        WATCH.new_convolutions()
        with training(self, where):
            yield
            TIMED["training"] += len(WATCH.new_convolutions())

    def count_forwards(*arguments):
        nonlocal about_to_time
        about_to_time = True  # the seconds of the first predictions that follow
        return counting(*arguments)

    def timed_logits(method, batches):
        nonlocal about_to_time
        WATCH.new_convolutions()
        found = logits(method, batches)
        TIMED["prediction"] += len(WATCH.new_convolutions()) if about_to_time else 0
        about_to_time = False
        return found

    CostCounter.training = timed_training
    evaluate.forwards_per_example, evaluate.member_logits = count_forwards, timed_logits


def drive(given: dict[str, Any], data: dict[str, str], folder: Path, where: str) -> dict[str, Any]:
    """Run one case; return what was seen."""
    WATCH.clear()
    WATCH.known_convolutions.clear()
    TIMED.clear()
    study = folder / "study.yaml"
    settings = Settings(
        folder / "runs", downloads=folder, device=where, checkpoint_seconds=0.0, fuse=given.get("fuse", "auto"),
        decoders=given.get("decoders", 0), plugins=tuple(given.get("plugins", ())),
    )  # fmt: skip
    seen: dict[str, Any] = {"error": "", "resumed": []}
    try:
        write_case(study, given, data)
        key = run_study(study, settings)
        seen |= {"timed": dict(TIMED), "recurrent": sorted(WATCH.recurrent)}
        seen["waits"] = sorted(place for place in WATCH.waits if place[0] == "update")
        seen["layouts"] = sorted(WATCH.layouts)
        again = Settings(**{**vars(settings), "runs": folder / "again"})
        run_interrupted(study, again)
        seen["resumed"] = different_entries(final_state(settings.runs, key), final_state(again.runs, key))
    except Exception as error:  # whatever a run raises is a finding
        seen["error"] = describe(error)
    return seen


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="*", help="a pattern of cases")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="the cases of `make test`")
    which.add_argument("--long", action="store_true", help="the others")
    parser.add_argument("--plugin", type=Path, nargs="*", help="files with a method each, which are the only cases")
    parser.add_argument("--real", action="store_true", help="on a GPU")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    watch_timed_parts()
    cases = {name: CASES[name] for name in QUICK} if asked.quick else CASES
    if asked.long:
        cases = {name: case for name, case in CASES.items() if name not in QUICK}
    if asked.plugin:
        cases = {path.stem: {"method": path.stem, "plugins": [path]} for path in asked.plugin}
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        data = make_data(Path(temporary))
        for i, name in enumerate(name for name in cases if fnmatch.fnmatchcase(name, asked.only)):
            folder = Path(temporary, f"case{i}")
            folder.mkdir()
            start = time.monotonic()
            seen = drive(cases[name], data, folder, asked.device)
            failed |= bool(seen["error"] or seen["resumed"] or seen.get("waits"))
            print(json.dumps({"name": name, "seconds": round(time.monotonic() - start, 1), **seen}), flush=True)
    sys.stdout.flush()
    os._exit(failed)  # an orderly end would ask CUDA


if __name__ == "__main__":
    main()
