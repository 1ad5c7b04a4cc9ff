"""The language model of the late-phase paper: one LSTM layer that reads text symbol by symbol."""

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

INITIAL = 0.01
"""Weights are drawn from U[−0.01, 0.01]."""

State = tuple[Tensor, Tensor]
"""The hidden and the cell state (h, c) of every row, (1, B, units) each."""


class LSTM(nn.Module):
    """Language model: an embedding as wide as there are symbols, one LSTM layer and a linear head.

    In training mode a forward pass starts from the state in which the one before it ended, detached: gradients are
    truncated at the minibatch (truncated back-propagation through time), so row b of a minibatch must go on where row b
    of the last one ended. `train()` and `eval()` forget the state, a copy has none, and it is no part of `state_dict`.
    In evaluation mode every pass starts from zeros and leaves nothing behind.

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
        # torch's own LSTM layer would have two biases a gate. This one reads a constant one beside the embedding, and
        # that input's weights, the last column of weight_ih_l0, are the gates' only bias.
        self.lstm = nn.LSTM(classes + 1, units, bias=False, batch_first=True)
        # Deviation: the paper trains without dropout; between the LSTM and the head is our choice.
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Linear(units, classes)
        self.state = None
        # The paper says so of "all base weights"; we count the biases among them, that of the forget gate too, to
        # which its TensorFlow layers may have added one.
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL, INITIAL)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, T) of the symbol that follows each of x (B, T), int64 from 0 to classes − 1.

        Raises:
            ValueError: In training mode, if the state carried from the last minibatch has another number of rows.
        """
        inputs = F.pad(self.embedding(x), (0, 1), value=1.0)  # (B, T, classes + 1)
        outputs, (h, c) = self.lstm(inputs, self._carried(inputs))  # (B, T, units)
        if self.training:
            self.state = (h.detach(), c.detach())
        logits: Tensor = self.head(self.dropout(outputs))
        return logits.transpose(1, 2)

    def _carried(self, inputs: Tensor) -> State | None:
        """The state to start from, on the device and in the precision of the inputs; None for zeros."""
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
        """Enter training mode (or evaluation mode) and forget the carried state."""
        self.state = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: everything but the carried state."""
        return {**self.__dict__, "state": None}
