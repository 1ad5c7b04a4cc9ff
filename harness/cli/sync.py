"""`econ sync`: sends run folders to MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Plugins, Refusal, Runs, Scale, Store, Study, Tuned, console, make_plan


def sync(
    study: Study,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
    artifacts: Annotated[
        bool,
        typer.Option("--artifacts", help="Send the files of finished runs again, too: those of the store are lost."),
    ] = False,
) -> None:
    """Send to MLflow what it does not have of a study's run folders."""
    from rich.progress import track

    from harness.planning.plan_cache import with_specs
    from harness.store.run_folder import RunFolder
    from harness.tracking.mlflow_mirror import Mirror
    from harness.tracking.mlflow_store import store_uri, without_secrets

    plan = with_specs(make_plan(study, plugin, tuned, scale, share=True))
    mirror = Mirror(store_uri(store, runs), plan.study.name, runs, plan.study.banner)
    mirror.resend_artifacts = artifacts
    mirror.open()
    started = [planned for key, planned in plan.runs.items() if RunFolder(runs, key).spec.exists()]
    for planned in track(started, "sending", console=console, disable=not console.is_terminal):
        mirror.send(planned)
    if mirror.problem:
        raise Refusal(f"{mirror.problem}; {len(mirror.unsent)} of {len(started)} runs were not sent")
    sent = sum(planned.role != "trunk" for planned in started)
    console.print(f"{sent} runs of study {plan.study.name} are in {without_secrets(mirror.store)}")
