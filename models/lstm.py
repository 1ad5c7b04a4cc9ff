"""The language model of the late-phase paper: one LSTM layer over the symbols of a text."""

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_BOUND = 0.01
"""Bound of the initial weights, which are drawn from U[−0.01, 0.01]."""

State = tuple[Tensor, Tensor]
"""The hidden and the cell state (h, c) of all rows, (1, B, units) each."""


class LSTM(nn.Module):
    """Language model: an embedding as wide as there are symbols, one LSTM layer and a linear head.

    In training mode, a forward pass starts from the detached final state of the pass before it. Gradients are thus
    truncated at the minibatch (truncated back-propagation through time), and row b of a minibatch must continue row b
    of the last one. `train()` and `eval()` discard the state. Copies and `state_dict` do not contain it. In evaluation
    mode, every pass starts from zeros and keeps no state.

    For 205 symbols and 500 units: 1,556,730 parameters.

    Args:
        units: Number of LSTM units.
        classes: Number of symbols.
        dropout: Probability of dropping a unit between the LSTM and the head; 0 for no dropout modules.

    Raises:
        ValueError: If `units` is less than 1.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.4 and appendix A ("LSTM");
        Hochreiter & Schmidhuber, Long short-term memory, 1997.
    """

    carries_state = True
    state: State | None

    def __init__(self, *, units: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if units < 1:
            raise ValueError(f"lstm-{units}: the number of units must be at least 1")
        self.embedding = nn.Embedding(classes, classes)
        # torch's LSTM layer has two biases per gate. This one has none, but an additional input that is always 1. The
        # weights of that input, the last column of weight_ih_l0, are the only biases of the gates.
        self.lstm = nn.LSTM(classes + 1, units, bias=False, batch_first=True)
        # Deviation: the paper trains without dropout. We drop units between the LSTM and the head.
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Linear(units, classes)
        self.state = None
        # The paper initialises "all base weights" so. We include the biases, also that of the forget gate, to which
        # the paper's TensorFlow layers may add one.
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL_BOUND, INITIAL_BOUND)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes, T) of the symbol after each symbol of x (B, T), int64 from 0 to classes − 1.

        Raises:
            ValueError: In training mode, if the state of the last minibatch has another number of rows.
        """
        inputs = F.pad(self.embedding(x), (0, 1), value=1.0)  # (B, T, classes + 1)
        outputs, (h, c) = self.lstm(inputs, self._initial_state(inputs))  # (B, T, units)
        if self.training:
            self.state = (h.detach(), c.detach())
        logits: Tensor = self.head(self.dropout(outputs))
        return logits.transpose(1, 2)

    def _initial_state(self, inputs: Tensor) -> State | None:
        """Return the initial state, with the device and the precision of the inputs; None for zeros."""
        if self.state is None or not self.training:
            return None
        h, c = self.state
        if h.shape[1] != len(inputs):
            raise ValueError(
                f"the LSTM carries a state of {h.shape[1]} rows from the last minibatch, but this one has "
                f"{len(inputs)}: minibatches of text need equally many rows until train() or eval() is called"
            )
        return h.to(inputs), c.to(inputs)

    def train(self, mode: bool = True) -> Self:
        """Enter training mode (or evaluation mode) and discard the state."""
        self.state = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes of a copy: all but the state."""
        return {**self.__dict__, "state": None}
