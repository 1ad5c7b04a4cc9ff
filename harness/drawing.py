"""The figures that a study asks for: which plot, with which options, of which of its cells."""

from typing import Any

from pydantic import ConfigDict

from methods.recipe import Part


class Drawing(Part):
    """One figure of a study; what stands besides these keys are the plot's own options.

    Attributes:
        plot: which one; `analysis.FIGURES` has their names, and their options as keyword arguments.
        name: at the end of the file's name, where a study has several figures.
        methods: labels of the entries that are drawn, in this order; None for all.
        datasets: names or labels of theirs; None for all.
        architectures: theirs; None for all.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    plot: str
    name: str = ""
    methods: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    architectures: tuple[str, ...] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the plot's function is given besides the runs."""
        return dict(self.model_extra or {})
