"""The learned simplex against the line, and its random points."""

import numpy as np
import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods.line import Line
from methods.simplex import Simplex
from tests.conftest import build
from tests.methods.training import train_epochs


def test_a_simplex_of_two_trains_as_a_line_does(recipe, batches):
    line, simplex = build(Line, recipe), build(Simplex, recipe, m=2)
    line_draw = line.draw_alpha

    def draw(generator):
        a = line_draw(generator).double()
        return torch.stack([1 - a, a])

    simplex.draw_alpha = draw
    for method in (line, simplex):
        train_epochs(method, make_optimizer(method, recipe), batches, last=2)
    for key, value in line.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(simplex.state_dict()[key], value), key


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("m", [2, 3, 6])
def test_a_simplex_is_drawn_from_uniformly(m, layerwise, recipe):
    """The moments of Dirichlet(1, …, 1)."""
    simplex = build(Simplex, recipe, m=m, layerwise=layerwise)
    draws = torch.stack([simplex.draw_alpha(simplex.alpha_draws) for _ in range(4000)]).double().reshape(-1, m)
    torch.testing.assert_close(draws.sum(-1), torch.ones(len(draws)).double(), rtol=0, atol=1e-6)
    assert (draws >= 0).all()
    expected = -np.ones((m, m)) / (m**2 * (m + 1))
    np.fill_diagonal(expected, (m - 1) / (m**2 * (m + 1)))
    np.testing.assert_allclose(draws.mean(0), 1 / m, atol=0.015)
    np.testing.assert_allclose(np.cov(draws.T.numpy()), expected, atol=0.006)
