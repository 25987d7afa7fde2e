"""Posteriors: what they read from their networks, and how two levels are one."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from flowvae_tutorial import (
    CouplingFlow,
    FlowPosterior,
    GaussianPosterior,
    HierarchicalPosterior,
    InputError,
    rsample_and_log_prob,
)
from flowvae_tutorial.networks import TwoInputs, mlp

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


# --- a Gaussian bent by a flow ----------------------------------------------------------------


def bent(kind: str = "affine") -> FlowPosterior:
    """Two latents for the four numbers themselves, and a flow that is no identity."""
    posterior = FlowPosterior(nn.Identity(), CouplingFlow(2, context=2, hidden=(8,), kind=kind))
    with torch.no_grad():
        for net in posterior.flow.nets:
            for parameter in net.body[-1].parameters():
                parameter.normal_(0, 0.5)
    return posterior.double()


def test_a_new_flow_posterior_is_its_gaussian() -> None:
    q_z = FlowPosterior(nn.Identity(), CouplingFlow(2, context=2).double())(X)
    assert (q_z.batch_shape, q_z.event_shape) == ((2,), (2,))
    z = torch.randn(5, 2, 2, dtype=torch.float64)
    expected = GaussianPosterior(nn.Identity())(X).log_prob(z)
    torch.testing.assert_close(q_z.log_prob(z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_a_flow_posterior_is_a_gaussian_bent_by_the_flow_at_its_mean(kind: str) -> None:
    posterior = bent(kind)
    gaussian = GaussianPosterior(nn.Identity())(X)
    u = gaussian.sample((5,))
    z, ladj = posterior.flow.transform(X[:, :2]).call_and_ladj(u)
    assert (z - u).abs().mean() > 0.1 and ladj.abs().mean() > 0.1
    log_q = posterior(X).log_prob(z)
    torch.testing.assert_close(log_q, gaussian.log_prob(u) - ladj, rtol=0, atol=1e-10)


def test_all_samples_of_one_picture_see_its_mean_and_not_their_noise() -> None:
    posterior, seen = bent(), []
    for net in posterior.flow.nets:
        net.of_context.register_forward_hook(lambda m, inputs, output: seen.append(*inputs))
    for _ in range(2):
        rsample_and_log_prob(posterior(X), (50,))
    assert len(seen) == 2 * len(posterior.flow.nets)
    assert all(torch.equal(context, X[:, :2]) for context in seen)


def test_each_picture_has_a_flow_of_its_own() -> None:
    # Two pictures whose Gaussians differ by a shift alone: their flows differ by more.
    posterior, u = bent(), torch.randn(50, 2, dtype=torch.float64)
    one, other = (posterior.flow.transform(X[[i], :2]).call_and_ladj(u) for i in range(2))
    assert (one[0] - other[0]).abs().max() > 0.1
    assert (one[1] - other[1]).abs().max() > 1e-3


def test_the_network_learns_through_the_flows_context_too() -> None:
    x = X.clone().requires_grad_()
    u = torch.randn(2, 2, dtype=torch.float64)
    _, ladj = bent()(x).transform.call_and_ladj(u)
    (gradient,) = torch.autograd.grad(ladj.sum(), x)
    assert gradient[:, :2].all() and not gradient[:, 2:].any(), "by the means and not the scales"


def test_gradient_reaches_every_parameter_of_a_flow_posterior() -> None:
    posterior = bent().float()
    posterior.net = nn.Linear(4, 4)
    z, log_q = rsample_and_log_prob(posterior(X.float()), (5,))
    (z.square().sum() + log_q.sum()).backward()
    for name, parameter in posterior.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("context", [0, 3])
def test_a_flow_that_is_not_conditioned_on_the_mean_is_refused(context: int) -> None:
    message = rf"\A[^\n]*needs context=2, as many as its features, got {context}\Z"
    with pytest.raises(InputError, match=message):
        FlowPosterior(nn.Identity(), CouplingFlow(2, context))


@pytest.mark.parametrize(
    ("width", "says"),
    [(3, "network gives 3 numbers; it must give 2D"), (6, "of 2 features it must give 4")],
)
def test_a_network_that_does_not_fit_its_flow_is_refused(width: int, says: str) -> None:
    posterior = FlowPosterior(nn.Linear(4, width), CouplingFlow(2, context=2))
    with pytest.raises(InputError, match=rf"\A[^\n]*{says}[^\n]*\Z"):
        posterior(X.float())


# --- two levels -------------------------------------------------------------------------------


def hierarchy() -> HierarchicalPosterior:
    """Two latents above three, for four numbers."""
    both = TwoInputs(mlp(4, (), 5), mlp(2, (), 5), mlp(10, (), 6))
    return HierarchicalPosterior(GaussianPosterior(mlp(4, (8,), 4)), GaussianPosterior(both))


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
def test_hierarchical_posterior_is_one_vector_of_both_levels(shape: tuple[int, ...]) -> None:
    q_z = hierarchy()(torch.randn(7, 4))
    assert (q_z.batch_shape, q_z.event_shape) == ((7,), (5,))
    z, log_q = rsample_and_log_prob(q_z, shape)
    assert (z.shape, log_q.shape) == ((*shape, 7, 5), (*shape, 7))
    assert q_z.sample(shape).shape == z.shape
    with pytest.raises(NotImplementedError):
        _ = q_z.mean
    torch.testing.assert_close(q_z.log_prob(z), log_q)


def test_both_levels_may_be_bent_by_flows() -> None:
    both = TwoInputs(mlp(4, (), 5), mlp(2, (), 5), mlp(10, (), 6))
    lower = FlowPosterior(both, CouplingFlow(3, context=3))
    posterior = HierarchicalPosterior(bent(), lower).double()
    z, log_q = rsample_and_log_prob(posterior(X), (5,))
    assert (z.shape, log_q.shape) == ((5, 2, 5), (5, 2))
    torch.testing.assert_close(posterior(X).log_prob(z), log_q, rtol=0, atol=1e-9)


def test_the_lower_level_sees_the_picture_and_the_top_latent() -> None:
    posterior, x = hierarchy().double(), X
    z = torch.randn(5, 2, 5, dtype=torch.float64)
    top, lower = posterior(x).log_prob_parts(z)
    torch.testing.assert_close(top, posterior.top(x).log_prob(z[..., :2]))
    for sample, found in zip(z, lower, strict=True):
        expected = posterior.conditional(x, sample[:, :2]).log_prob(sample[:, 2:])
        torch.testing.assert_close(found, expected)
    other_x, other_top = posterior(x.flip(0)), z.clone()
    other_top[..., :2] += 1
    assert ((other_x.log_prob_parts(z)[1] - lower).abs() > 1e-6).all()
    assert ((posterior(x).log_prob_parts(other_top)[1] - lower).abs() > 1e-6).all()


def test_the_picture_is_encoded_once_for_all_samples() -> None:
    posterior, rows = hierarchy(), []
    for net in (posterior.top.net, posterior.conditional.net.first):
        net.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape))
    posterior(torch.randn(7, 4))  # The first call also finds out the size of the lower level.
    rows.clear()
    rsample_and_log_prob(posterior(torch.randn(7, 4)), (50,))
    assert rows == [(7, 4), (7, 4)]


def test_finding_out_the_size_leaves_the_random_state() -> None:
    posterior, state = hierarchy(), torch.get_rng_state()
    posterior(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_gradient_reaches_every_parameter_of_both_levels() -> None:
    posterior = hierarchy()
    z, _ = rsample_and_log_prob(posterior(X.float()), (5,))
    # By the lower latent alone: the top one learns through it.
    z[..., 2:].square().sum().backward()
    for name, parameter in posterior.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("used", [False, True])
def test_hierarchical_posterior_can_be_copied_and_stored(used: bool) -> None:
    posterior = hierarchy()
    if used:
        posterior(X.float())
    z = torch.randn(2, 5)
    for clone in (copy.deepcopy(posterior), pickle.loads(pickle.dumps(posterior))):
        torch.testing.assert_close(clone(X.float()).log_prob(z), posterior(X.float()).log_prob(z))
