"""Made-up files of run folders that pass for real ones."""

from typing import Any


def made_up_result(key: str, /, **changes: Any) -> dict[str, Any]:
    """Return what a result.json has at least."""
    empty = {name: {} for name in ("metrics", "members", "cost", "spent", "provenance")}
    return {"key": key, **empty, "timing": {"finished": 1.0}} | changes


def made_up_progress(**changes: Any) -> dict[str, Any]:
    """Return what a progress.json has at least."""
    return {"stage": "training", "epoch": 0, "epochs": 3, "time": 1.0, **changes}
