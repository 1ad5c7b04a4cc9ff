"""Methods of the tests that go on from the state of another run."""

from methods import SGD, MakeMethod, Method, Need
from methods.core.declarations import Sharing


class Tail(Method):
    """Goes on from the network that the run of seed 1000 has after some epochs, in the order of this run's own seed."""

    sharing = Sharing(prediction=frozenset({"twin"}))

    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD, after: int | None = 2, twin: bool = False):
        """Build the network.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method of the run of seed 1000.
            after: after how many epochs its state is taken; None for its finished state.
            twin: without effect.
        """
        super().__init__(make_net, recipe)
        self.after = after

    def needs(self):
        return [Need(1000, self.after)]

    def receive(self, states):
        state = states[0]
        self.load_state_dict({name: value for name, value in state.items() if name.startswith("net.")}, strict=False)


class TailOfMany(Tail):
    """Goes on as a tail does, and needs other states of the same run, which it does not use."""

    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD, after: int | None = 2, also: str = "1 3"):
        """Need the states after the numbers of epochs in `also`; 0 for the finished run."""
        super().__init__(make_net, recipe, of=of, after=after)
        self.also = also

    def needs(self):
        return super().needs() + [Need(1000, int(epochs) or None) for epochs in self.also.split()]
