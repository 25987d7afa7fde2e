"""GaussianPosterior: what it reads from its network."""

import math

import pytest
import torch
from torch import Tensor, nn

from flowvae_tutorial import GaussianPosterior, InputError, rsample_and_log_prob

X = torch.tensor([[1.0, -2.0, 0.5, -1.0], [0.0, 3.0, -0.5, 0.25]], dtype=torch.float64)


def test_first_half_is_the_mean_and_second_the_log_of_the_standard_deviation() -> None:
    q_z = GaussianPosterior(nn.Identity())(X)
    assert (q_z.batch_shape, q_z.event_shape) == ((2,), (2,))
    assert torch.equal(q_z.mean, X[:, :2])
    torch.testing.assert_close(q_z.stddev, X[:, 2:].exp())


def test_samples_spread_by_the_standard_deviation() -> None:
    n = 40_000
    z = GaussianPosterior(nn.Identity())(X).sample((n,))
    scale = X[:, 2:].exp()
    assert ((z.mean(0) - X[:, :2]).abs() < 4 * scale / n**0.5).all()
    assert ((z.std(0) / scale - 1).abs() < 4 / (2 * n) ** 0.5).all()


def test_density_is_summed_over_the_latents_and_nothing_else() -> None:
    q_z = GaussianPosterior(nn.Identity())(X)
    z = torch.randn(5, 2, 2, dtype=torch.float64)
    error = (z - X[:, :2]) / X[:, 2:].exp()
    each = -0.5 * error**2 - X[:, 2:] - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(q_z.log_prob(z), each.sum(-1), rtol=0, atol=1e-12)


def test_gradient_reaches_every_parameter() -> None:
    net = nn.Linear(4, 6)
    z, log_q = rsample_and_log_prob(GaussianPosterior(net)(X.float()), (5,))
    (z.square().sum() + log_q.sum()).backward()
    assert all(p.grad is not None and p.grad.all() for p in net.parameters())


@pytest.mark.parametrize("features", [1, 5])
def test_a_network_with_odd_output_is_refused(features: int) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(len(x), features)

    message = rf"\A[^\n]*network gives {features} numbers; it must give 2D[^\n]*\Z"
    with pytest.raises(InputError, match=message):
        GaussianPosterior(Odd())(X)
