"""One damaged file of a run blocks nothing: it is named with its folder, and every command does what is left to do."""

import json
import shutil

import pytest
import torch

from harness.store import claim
from harness.store.claim import claim_numbers, claim_path
from harness.store.run_folder import RunFolder, write_json


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Wait only a moment for the owner of a claim."""
    monkeypatch.setattr(claim, "HEARTBEAT_TIMEOUT", 0.5)


def folders(project):
    """Return the run folder that is damaged, of late_phase_bn, and the other one."""
    paths = sorted(path.parent for path in project.glob("runs/*/result.json"))
    names = {json.loads((path / "result.json").read_text())["spec"]["method"]["name"]: path for path in paths}
    return [RunFolder(project / "runs", names[name].name) for name in ("late_phase_bn", "sgd")]


def edit(change):
    """Return a damage that edits result.json."""

    def damage(folder, other):
        result = json.loads(folder.result.read_text())
        change(result)
        write_json(folder.result, result)
        return folder.result

    return damage


def replace(name, content, *, unfinished=False):
    """Return a damage that replaces a file, of a run whose result may be missing, too."""

    def damage(folder, other):
        path = folder.path / name
        path.write_bytes(content)
        if unfinished:
            folder.result.unlink()
        return path

    return damage


def another_result(folder, other):
    shutil.copy(other.result, folder.result)
    return folder.result


def cut_metrics(folder, other):
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-9])
    return folder.metrics


def damaged_claim(folder, other):
    folder.result.unlink()
    path = claim_path(folder.path, max(claim_numbers(folder.path)) + 1)
    path.write_bytes(b"\xff{what")
    return path


def other_weights(folder, other):
    content = torch.load(folder.checkpoint, weights_only=True)
    name = next(name for name, value in content["method"].items() if isinstance(value, torch.Tensor) and value.dim())
    content["method"][name] = torch.zeros(1, 2, 3)
    torch.save(content, folder.checkpoint)
    folder.result.unlink()
    return folder.checkpoint


def empty_predictions(folder, other):
    artifacts = folder.path.parent.glob("artifacts/s/*/artifacts/result.json")
    (result,) = (path for path in artifacts if json.loads(path.read_text())["key"] == folder.key)
    result.with_name("predictions.npz").write_bytes(b"")
    return result.with_name("predictions.npz")


DAMAGE = {
    "result: cut": lambda folder, other: replace("result.json", folder.result.read_bytes()[:99])(folder, other),
    "result: empty": replace("result.json", b""),
    "result: zeros": replace("result.json", bytes(100)),
    "result: a list": replace("result.json", b"[1]"),
    "result: lacks timing": edit(lambda result: result.pop("timing")),
    "result: lacks its end": edit(lambda result: result["timing"].pop("finished")),
    "result: metrics are text": edit(lambda result: result["metrics"].update(accuracy="high")),
    "result: of another run": another_result,
    "metrics: cut": cut_metrics,
    "metrics: zeros": replace("metrics.jsonl", bytes(50)),
    "metrics: no objects": replace("metrics.jsonl", b"1\n[2]\n{}\n"),
    "failure": replace("failure.json", b'{"state": "failed"}', unfinished=True),
    "failure: no JSON": replace("failure.json", b"\xff", unfinished=True),
    "progress": replace("progress.json", b'{"epoch": "three"}', unfinished=True),
    "claim": damaged_claim,
    "checkpoint": other_weights,
    "predictions": empty_predictions,
}
COMMANDS = {
    "run": ["run"],
    "status": ["status"],
    "status for scripts": ["status", "--json"],
    "sync": ["sync", "--store", "new.db"],
    "report": ["report", "-o", "report.html"],
    "plot": ["plot", "-o", "plots"],
}
NAMES = {
    "result": ("run", "status", "status for scripts", "sync"),
    "metrics": ("sync",),
    "failure": ("run", "status", "status for scripts", "sync"),
    "progress": ("run", "status", "status for scripts"),
    "checkpoint": ("run",),
    "claim": ("run", "status", "status for scripts"),
    "predictions": ("plot",),
}
"""The commands that read a file, and therefore name it when it is damaged."""
FAST = ("status", "sync")
FROM_MLFLOW = ("report", "plot")
"""Commands that read no run folder: a few kinds of damage are enough for them."""
CASES = [
    pytest.param(command, damage, marks=() if command in FAST else pytest.mark.long)
    for command in COMMANDS
    for damage in (("result: cut", "checkpoint", "predictions") if command in FROM_MLFLOW else DAMAGE)
]


@pytest.mark.parametrize(("command", "damage"), CASES)
def test_a_damaged_file_blocks_nothing(project, run_here, empty_store, damage, command):
    shutil.copy(empty_store, project / "new.db")
    folder, other = folders(project)
    before = folder.read_result()
    path = DAMAGE[damage](folder, other)
    code, out, err = run_here(*COMMANDS[command], "s.yaml")
    said = out + err
    assert "Traceback" not in said and "Aborted" not in said
    kind = damage.partition(":")[0]
    if command in NAMES[kind]:
        assert folder.key[:12] in said.replace("\n", "") or str(path) in said or path.as_uri() in said, said
    if command == "run":
        assert code == 0, said
        after = folder.read_result()
        assert after["metrics"] == before["metrics"]
        assert kind != "checkpoint" or (folder.path / "checkpoint.corrupt.pt").exists()
    elif command.startswith("status"):
        assert code == 0 and "sgd" in out
    elif command == "sync":
        assert code == (2 if kind == "result" else 0), said
    elif command == "report":
        assert code == 0
        assert ("No plot reliability" in (project / "report.html").read_text()) == (kind == "predictions")
    else:
        assert code == (1 if kind == "predictions" else 0), said
        assert (project / "plots" / "cost.pdf").exists() and (project / "plots" / "path.pdf").exists()
        assert (project / "plots" / "reliability.pdf").exists() == (kind != "predictions")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (replace("result.json", b"{"), "result.json is damaged: the run was not sent; 1 of 2 runs were not sent"),
        (edit(lambda result: result["provenance"].update({"a/../b": "x"})), "1 of 2 runs were not sent"),
    ],
)
def test_the_other_runs_are_sent(project, run_here, empty_store, damage, said):
    from analysis import load_runs

    shutil.copy(empty_store, project / "new.db")
    folder, _ = folders(project)
    damage(folder, None)
    code, _, err = run_here("sync", "s.yaml", "--store", "new.db")
    assert code == 2 and said in err and folder.key in err
    assert list(load_runs("s", store="new.db")["label"]) == ["sgd"]


def test_a_reason_that_is_no_text_is_sent(project, run_here, empty_store):
    shutil.copy(empty_store, project / "new.db")
    folder, _ = folders(project)
    folder.result.unlink()
    folder.failure.write_text('{"state": "failed", "reason": "\\ud800", "time": 1}')
    assert run_here("sync", "s.yaml", "--store", "new.db")[0] == 0
