"""Label smoothing of any method."""

from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing, Trunk
from methods.core.method import MakeMethod
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.core.wrapper import Wrapper, methods_within
from methods.sgd import SGD


class LabelSmoothing(Wrapper):
    """Train on targets that share some of their probability equally among all classes.

    The wrapper changes the recipe of the inner method, in place of any smoothing that the recipe had. It therefore
    works with every method.

    References:
        Müller et al., When does label smoothing help?, NeurIPS 2019, section 1.1. Wortsman et al., Learning neural
        network subspaces, ICML 2021, Figure 8, try 0.05, 0.1, 0.2, 0.4 and 0.8.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {"epsilon": FloatDistribution(0.01, 0.8, log=True)}
    about: ClassVar[About] = About("regularisation", "Müller et al. 2019")
    sharing: ClassVar[Sharing] = Sharing(lambda method: Trunk(method.inner, method.epochs))
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        """Smooth the labels of the method `of`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method that is trained.
            epsilon: the probability that all C classes share: the target of the right class is 1 − epsilon + epsilon/C.

        Raises:
            ValueError: if the inner method smooths labels itself.
        """
        super().__init__(make_net, recipe.model_copy(update={"label_smoothing": epsilon}), of)
        if any(isinstance(method, LabelSmoothing) for method in methods_within(self.inner)):
            raise ValueError("LabelSmoothing inside of LabelSmoothing: only the inner one would smooth")
        self.start_epoch = 0
