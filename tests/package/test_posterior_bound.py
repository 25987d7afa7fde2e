"""The bound on a posterior's scale: its form, where it is on, and the runaway that it stops."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    CouplingFlow,
    FlowPosterior,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    InputError,
    StandardNormal,
    VampPrior,
    mlp,
    own_data,
    rsample_and_log_prob,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.models import BOOK_MODELS, MODELS, default_sizes
from flowvae_tutorial.networks import LOG_SCALE_BOUNDS, UNBOUNDED, TwoInputs, soft_clamp

LOW, HIGH = LOG_SCALE_BOUNDS
BOUNDS = "log_scale_bounds"
MIDDLE, HALF = (LOW + HIGH) / 2, (HIGH - LOW) / 2
X, D = 4, 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_clamp_and_its_slope_are_the_closed_form_far_outside_too(dtype: torch.dtype) -> None:
    t = torch.cat([torch.linspace(-3.01, 3.01, 200), torch.tensor([-50.0, -10.0, -1.0, 1.0, 50.0])])
    x = (MIDDLE + HALF * t).to(dtype).requires_grad_()
    y = soft_clamp(x, LOW, HIGH)
    (slope,) = torch.autograd.grad(y.sum(), x)
    exact = (x.detach().double() - MIDDLE) / HALF
    expected = MIDDLE + HALF * exact / (1 + exact**8) ** 0.125
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(y.detach().double(), expected, rtol=0, atol=rtol)
    torch.testing.assert_close(slope.double(), (1 + exact**8) ** -1.125, rtol=10 * rtol, atol=0)


def test_whatever_a_network_gives_the_scale_is_within_its_bounds() -> None:
    x = torch.tensor([-math.inf, -1e30, -1e6, -100.0, 100.0, 1e6, 1e30, math.inf])
    x.requires_grad_()
    y = soft_clamp(x, LOW, HIGH)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, torch.tensor([LOW] * 4 + [HIGH] * 4))
    assert slope.isfinite().all()
    assert (slope[3:5] > 0).all(), "a hundred away there is still a way back"


def test_where_scales_live_the_clamp_changes_next_to_nothing() -> None:
    x = torch.linspace(-2.0, 0.0, 101, dtype=torch.float64)
    assert (soft_clamp(x, LOW, HIGH) - x).abs().max() < 0.0005
    x = torch.linspace(LOW, HIGH, 101, dtype=torch.float64)
    assert 0.16 < (soft_clamp(x, LOW, HIGH) - x).abs().max() < 0.17


class Numbers(nn.Module):
    """An encoder that gives what it is told, whatever it is shown."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand(len(x), -1)


@pytest.mark.parametrize("far", [-1e6, -100.0, 100.0, 1e6])
def test_the_kl_term_of_an_adversarial_network_is_finite_and_so_is_its_gradient(far: float) -> None:
    net = Numbers(torch.tensor([0.5, -0.5, far, far]))
    gaussian = GaussianPosterior(net, LOG_SCALE_BOUNDS)
    bent = FlowPosterior(net, CouplingFlow(D, context=D), LOG_SCALE_BOUNDS)
    exact = kl_divergence(gaussian(torch.zeros(3, X)), StandardNormal(D)())
    assert exact.isfinite().all() and (exact < 10).all()
    for posterior in (gaussian, bent):
        z, log_q = rsample_and_log_prob(posterior(torch.zeros(3, X)), (5,))
        loss = (log_q - StandardNormal(D)().log_prob(z)).mean()
        (gradient,) = torch.autograd.grad(loss, net.output)
        assert loss.isfinite() and gradient.isfinite().all()
        assert abs(far) > 100 or gradient[D:].all()


def runaway(posterior: GaussianPosterior) -> Tensor:
    """The KL term at a picture on which two pseudo-inputs say nothing, in nats.

    Along the fifth pixel, which both leave at zero, the encoder's log-scale rises.
    """
    start = torch.zeros(2, 5)
    start[0, :4], start[1, :4] = 0.2, 0.8
    decoder = nn.Linear(D, 5)
    vae = VAE(VampPrior(posterior, start, bounds=None), posterior, BernoulliLikelihood(decoder))
    picture = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    return vae.elbo(picture, 1000).kl.mean()


def steep() -> nn.Linear:
    encoder = nn.Linear(5, 2 * D)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -2.0, -2.0]))
        encoder.weight[D:, 4] = 8.0
    return encoder


def test_a_scale_runs_away_where_pseudo_inputs_are_far_and_the_bound_stops_it() -> None:
    # σ = e⁻² at the pseudo-inputs. At the picture e⁶ without a bound, e¹ with it.
    free = runaway(GaussianPosterior(steep(), UNBOUNDED))
    kept = runaway(GaussianPosterior(steep()))
    assert free > 1e6
    assert kept < 1000


# --- where it is on ---------------------------------------------------------------------------


def gaussian() -> GaussianPosterior:
    return GaussianPosterior(mlp(X, (8,), 2 * D))


def two_levels() -> HierarchicalPosterior:
    both = TwoInputs(mlp(X, (), 5), mlp(D, (), 5), mlp(10, (), 2 * D))
    return HierarchicalPosterior(gaussian(), GaussianPosterior(both))


def test_without_a_bound_the_scale_is_the_networks_to_the_bit() -> None:
    output = 5 * torch.randn(7, 2 * D)
    for bounds in (None, UNBOUNDED):
        q_z = GaussianPosterior(nn.Identity(), bounds)(output)
        assert torch.equal(q_z.stddev, output[:, D:].exp())


def test_a_vampprior_bounds_the_posterior_that_it_shares() -> None:
    shared = gaussian(), FlowPosterior(mlp(X, (8,), 2 * D), CouplingFlow(D, context=D))
    for posterior in shared:
        assert posterior.log_scale_bounds is None
        VampPrior(posterior, torch.rand(3, X))
        assert posterior.log_scale_bounds == LOG_SCALE_BOUNDS
    whole, top = two_levels(), two_levels()
    VampPrior(whole, torch.rand(3, X))
    VampPrior(top.top, torch.rand(3, X))
    assert whole.top.log_scale_bounds == whole.conditional.log_scale_bounds == LOG_SCALE_BOUNDS
    assert top.top.log_scale_bounds == LOG_SCALE_BOUNDS and top.conditional.log_scale_bounds is None


@pytest.mark.parametrize("bounds", [(-5.0, 2.0), UNBOUNDED])
def test_bounds_that_were_asked_for_stay(bounds: tuple[float, float]) -> None:
    posterior = GaussianPosterior(mlp(X, (8,), 2 * D), bounds)
    VampPrior(posterior, torch.rand(3, X))
    assert posterior.log_scale_bounds == bounds


@pytest.mark.parametrize(
    "bounds", [(1.0, -3.0), (0.0, 0.0), (-math.inf, 1.0), (-3.0, math.inf), (math.nan, 1.0)]
)
def test_bounds_that_are_none_are_refused_in_one_line(bounds: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"\Alog_scale_bounds must be two numbers[^\n]*\Z"):
        GaussianPosterior(mlp(X, (8,), 2 * D), bounds)
    with pytest.raises(InputError, match="log_scale_bounds must be"):
        FlowPosterior(mlp(X, (8,), 2 * D), CouplingFlow(D, context=D), bounds)


@pytest.mark.parametrize("name", ["rings", "mnist"])
def test_every_conditional_gaussian_of_the_book_is_bounded(name: str) -> None:
    data = load("rings") if name == "rings" else own_data(torch.rand(600, 28, 28))
    for model in BOOK_MODELS:
        vae = MODELS[model](data, default_sizes(data)._replace(pseudo_inputs=3))
        found = [vars(part)[BOUNDS] for part in vae.modules() if hasattr(part, BOUNDS)]
        two_levels = isinstance(vae.prior, HierarchicalPrior)
        assert found == [LOG_SCALE_BOUNDS] * (3 if two_levels else 1), model
