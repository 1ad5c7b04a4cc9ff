"""The table of `econ run STUDY --dry-run`: how many runs and epochs a study takes, and how many are left."""

from pathlib import Path

from rich.table import Table

from harness.planning.planned_runs import PlannedRuns

COLUMNS = ("cells", "epochs as written", "epochs after sharing", "runs left", "epochs left")


def plan_table(plan: PlannedRuns, root: Path) -> Table:
    """Return a table of the runs and epochs of each method.

    "Epochs as written" counts every cell with everything it needs, each run once, as often as the study names the cell.
    "Epochs after sharing" counts each run once, and each trunk once: training that several runs share, or whose state
    runs need. "Left" is what is not finished.

    Args:
        plan: the study's plan; its trunks get a row, too.
        root: the folder of run folders.
    """
    left = plan.left(root)
    finished = len(plan.without_trunks) - len(left.keys() & plan.without_trunks.keys())
    table = Table(title=f"study {plan.study.name}: {len(plan.without_trunks)} runs, {finished} of them finished")
    if plan.study.kind == "quadratic":
        for column in ("setting", "iterations", "iterations left"):
            table.add_column(column, justify="right" if column != "setting" else "left")
        for key, planned in plan.runs.items():
            table.add_row(planned.label, f"{planned.epochs:,}", f"{left[key]:,}" if key in left else "")
        return table
    table.add_column("method", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    sections: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for key in plan.runs:
        for i, name in enumerate(row_names(plan, key)):
            sections.setdefault(section_name(plan, key), {}).setdefault(name, []).append((key, i))
    totals = [0] * len(COLUMNS)
    for section, methods in sections.items():
        table.add_row(section, style="bold")
        for name, listed in methods.items():
            once = [key for key, i in listed if i == 0]
            cells = [key for key, _ in listed if plan.runs[key].role == "cell"]
            counts = [
                len(cells),
                sum(plan.epochs_as_written(key) for key in cells),
                sum(plan.runs[key].epochs - plan.runs[key].trunk_epochs for key in once),
                sum(key in left for key in once),
                sum(left.get(key, 0) for key in once),
            ]
            table.add_row(name, *(f"{count:,}" if count else "" for count in counts))
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
        table.add_section()
    table.add_row("total", *(f"{total:,}" for total in totals), style="bold")
    written, shared = totals[1], totals[2]
    if written:
        table.caption = f"after sharing: {shared:,} of {written:,} epochs as written, {100 * shared / written:.1f} %"
    return table


def section_name(plan: PlannedRuns, key: str) -> str:
    """Return the dataset and architecture of a run, which head its section of the table."""
    tags = plan.runs[key].run.tags()
    return f"{tags['dataset']} · {tags['architecture']}"


def row_names(plan: PlannedRuns, key: str) -> tuple[str, ...]:
    """Return the names of a run's rows: several if the study names its method several times."""
    planned = plan.runs[key]
    if planned.role == "cell":
        return planned.labels
    return ("  trunks",) if planned.role == "trunk" else (f"  needed: {planned.label}",)
