"""The planned runs of a study: what each run needs, and which runs are left.

This module imports neither torch nor the methods, so that commands which only read runs start at once.
"""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness.store.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd


class RunDescription(Protocol):
    """What is known of every run without building it: a run spec, a trunk, or what the cache keeps of them."""

    @property
    def key(self) -> str:
        """The name of its folder, and of its MLflow run."""

    @property
    def setup(self) -> str:
        """Architecture, dataset and seed."""

    def tags(self) -> dict[str, str]:
        """Return the tags that describe the run in MLflow."""


@dataclass(frozen=True)
class FigureSummary:
    """A figure that a study requests.

    Attributes:
        plot: its name in `analysis.FIGURES`.
        name: the end of its file's name; "" if the study has no other figure.
        options: the plot's own options.
        cells: (dataset, architecture, label) of each entry that is drawn, in this order.
    """

    plot: str
    name: str
    options: Mapping[str, Any]
    cells: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class StudySummary:
    """What commands need to know of a study besides its runs.

    Attributes:
        name: name of the study.
        kind: "grid" of cells, or "quadratic" for the noisy quadratic problem.
        plugins: plugin files that define methods.
        description: the study's own words.
        caption: notes for the leaderboard, on tuning and on learning rates that replace the recipe's.
        banner: warning that must be shown with all results of the study; "" for none.
        figures: the figures that it requests.
        published: the values that a paper publishes, one dict a row, and the attributes of their table; None for none.
    """

    name: str
    kind: Literal["grid", "quadratic"]
    plugins: tuple[Path, ...] = ()
    description: str = ""
    caption: str = ""
    banner: str = ""
    figures: tuple[FigureSummary, ...] = ()
    published: Mapping[str, Any] | None = None

    def published_values(self) -> "pd.DataFrame | None":
        """Return the published values as a table for `analysis.compare`; None if the study has none."""
        import pandas as pd

        if self.published is None:
            return None
        frame = pd.DataFrame(self.published["rows"])
        frame.attrs = dict(self.published["attrs"])
        return frame


@dataclass(frozen=True)
class Planned:
    """One run of a plan.

    Attributes:
        run: its spec.
        labels: what the study calls its method; more than one name if it stands there more than once.
        role: a "cell" of the study, a "component" that only exists because a cell needs it, a "trunk" (the state that
            several runs go on from, or that a run needs), or a "trial" of tuning.
        needs: keys of the finished runs, and of the trunks, from whose states it starts.
        epochs: epochs of the run, those of a trunk that it goes on from included.
        warning: what the study's author may not have meant.
        reference_runs: keys of the finished runs that its evaluation reads too; they are no part of its cost.
        trunks: keys of the trunks that it can go on from, the latest first.
        trunk_epochs: how many of its epochs the latest of these trunks has trained.
        contained: keys of states that it needs, directly or not, and that another run or state which it needs passes
            through while it trains. They are no part of its cost beside that one.
    """

    run: RunDescription
    labels: tuple[str, ...]
    role: Literal["cell", "component", "trunk", "trial"]
    needs: tuple[str, ...]
    epochs: int
    warning: str = ""
    reference_runs: tuple[str, ...] = ()
    trunks: tuple[str, ...] = ()
    trunk_epochs: int = 0
    contained: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name of its folder, and of its MLflow run."""
        return self.run.key

    @property
    def label(self) -> str:
        """What the study calls its method first."""
        return self.labels[0]

    @property
    def after(self) -> tuple[str, ...]:
        """Keys of the runs that must be finished first."""
        return (*self.needs, *self.reference_runs, *self.trunks[:1])


@dataclass
class PlannedRuns:
    """All runs of a study by key; a run stands after those that it needs.

    Attributes:
        study: what commands need to know of the study.
        runs: the runs by key.
    """

    study: StudySummary
    runs: dict[str, Planned] = field(default_factory=dict)

    @property
    def without_trunks(self) -> dict[str, Planned]:
        """The runs that have results of their own: all but trunks."""
        return {key: planned for key, planned in self.runs.items() if planned.role != "trunk"}

    def epochs_as_written(self, key: str) -> int:
        """Count the epochs of a run if everything it needs were trained for it alone, each once."""
        return sum(self.runs[each].epochs for each in self.counted(key))

    def counted(self, key: str) -> set[str]:
        """Return the keys of a run and of everything that is part of its cost."""
        return self.with_needs(key) - set(self.runs[key].contained)

    def with_needs(self, key: str) -> set[str]:
        """Return the keys of a run and of everything that it needs, directly or not."""
        return {key}.union(*map(self.with_needs, self.runs[key].needs))

    def finished(self, root: Path) -> set[str]:
        """List the runs whose result is there, and the trunks that need not be trained."""
        return self.runs.keys() - self.left(root).keys()

    def left(self, root: Path) -> dict[str, int]:
        """Give for each run that is left, trunks too, how many epochs it trains itself.

        A trunk is trained if two runs or more that are left go on from it; a single one trains its epochs itself. A
        trunk that a run needs is trained even if only that run is left.
        """
        left = {key for key in self.without_trunks if not RunFolder(root, key).finished}
        needed = {need for key in left for need in self.runs[key].needs}
        waiting = Counter(
            self.runs[key].trunks[0]
            for key in left
            if self.runs[key].trunks and not RunFolder(root, key).checkpoint.exists()
        )
        there = set()
        for key, planned in reversed(self.runs.items()):  # later trunks come after those that they go on from
            if planned.role != "trunk":
                continue
            folder = RunFolder(root, key)
            if folder.finished and folder.checkpoint.exists():
                there.add(key)
            elif waiting[key] or key in needed:
                if waiting[key] > 1 or key in needed:
                    left.add(key)
                    needed.update(planned.needs)
                waiting.update(planned.trunks[:1])
        return {
            key: planned.epochs - self.begins_at(planned, left | there)
            for key, planned in self.runs.items()
            if key in left
        }

    def begins_at(self, planned: Planned, trunks: Set[str]) -> int:
        """Say after how many epochs a run goes on from the latest of its trunks that there will be."""
        return next((self.runs[key].epochs for key in planned.trunks if key in trunks), 0)
