"""The figures that a study asks for: which plot, with which options, of which of its cells."""

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict

from harness.expression import closest
from harness.grid import Place
from harness.places import Errors
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

    def choose(self, places: Sequence[Place]) -> tuple[int, ...]:
        """Give the numbers of the places of a study that are drawn, in the order of `methods`.

        Raises:
            ValueError: for a name that the study does not have.
        """
        labels = list(dict.fromkeys(place.entry.label for place in places))
        names = {name: None for place in places for name in (place.dataset.name, place.dataset.label)}
        architectures = dict.fromkeys(place.architecture for place in places)
        for asked, known in ((self.methods, labels), (self.datasets, names), (self.architectures, architectures)):
            for name in asked or ():
                if name not in known:
                    raise ValueError(f"the study has no {name!r}; {closest(name, known)}")
        order = list(self.methods or labels)
        chosen = [
            i
            for i, place in enumerate(places)
            if place.entry.label in order
            and (self.datasets is None or {place.dataset.name, place.dataset.label} & set(self.datasets))
            and (self.architectures is None or place.architecture in self.architectures)
        ]
        return tuple(sorted(chosen, key=lambda i: order.index(places[i].entry.label)))


def check_drawings(drawings: Sequence[Drawing], places: Sequence[Place], errors: Errors) -> None:
    """Report figures of what the study does not have, and two of one name."""
    for i, drawing in enumerate(drawings):
        try:
            drawing.choose(places)
        except ValueError as error:
            errors.add(("figures", i), str(error))
        if drawing.name in (other.name for other in drawings[:i]):
            errors.add(("figures", i), f"there is a figure of the name {drawing.name!r} already")
