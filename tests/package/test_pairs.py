"""Every prior with every posterior: each pair trains, and all agree with an exact oracle."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowvae_tutorial import (
    VAE,
    AutoregressiveFlow,
    CouplingFlow,
    FlowMatchingPrior,
    FlowPosterior,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    StandardNormal,
    VampPrior,
)
from flowvae_tutorial.flow_matching import VelocityField
from flowvae_tutorial.networks import TwoInputs, mlp

# A hierarchy has TOP + LOWER of the D latents in its two levels.
X, TOP, LOWER = 6, 2, 3
D = TOP + LOWER
N, S, K = 8, 2, 4

# --- posteriors -------------------------------------------------------------------------------


def coupling_flow(features: int, kind: str, context: int = 0) -> CouplingFlow:
    return CouplingFlow(features, context, transforms=2, hidden=(8,), kind=kind)


def flow_posterior(kind: str) -> FlowPosterior:
    return FlowPosterior(mlp(X, (8,), 2 * D), coupling_flow(D, kind, context=D))


def autoregressive(kind: str, context: int = 0) -> AutoregressiveFlow:
    return AutoregressiveFlow(D, context, transforms=2, hidden=(8,), kind=kind)


def both() -> TwoInputs:
    return TwoInputs(mlp(X, (), 5), mlp(TOP, (), 5), mlp(10, (), 2 * LOWER))


def two_gaussians() -> HierarchicalPosterior:
    return HierarchicalPosterior(
        GaussianPosterior(mlp(X, (8,), 2 * TOP)), GaussianPosterior(both())
    )


def two_flows() -> HierarchicalPosterior:
    return HierarchicalPosterior(
        FlowPosterior(mlp(X, (8,), 2 * TOP), coupling_flow(TOP, "affine", context=TOP)),
        FlowPosterior(both(), coupling_flow(LOWER, "spline", context=LOWER)),
    )


def zukos(zuko: ModuleType, name: str, context: int = 0) -> nn.Module:
    flow: nn.Module = getattr(zuko.flows, name)(D, context, transforms=2, hidden_features=(8,))
    return flow


POSTERIORS: dict[str, Callable[[Any], nn.Module]] = {
    "gaussian": lambda zuko: GaussianPosterior(mlp(X, (8,), 2 * D)),
    "affine flow": lambda zuko: flow_posterior("affine"),
    "spline flow": lambda zuko: flow_posterior("spline"),
    "inverse autoregressive": lambda zuko: FlowPosterior(
        mlp(X, (8,), 2 * D), autoregressive("inverse", D)
    ),
    "two gaussians": lambda zuko: two_gaussians(),
    "two flows": lambda zuko: two_flows(),
    "zuko NSF": lambda zuko: zukos(zuko, "NSF", X),
    "zuko MAF": lambda zuko: zukos(zuko, "MAF", X),
    "zuko RealNVP": lambda zuko: zukos(zuko, "RealNVP", X),
}

# --- priors -----------------------------------------------------------------------------------


def vamp(posterior: nn.Module) -> VampPrior:
    return VampPrior(posterior, torch.randn(K, X), torch.zeros(K), bounds=None)


def hierarchy(top: nn.Module) -> HierarchicalPrior:
    return HierarchicalPrior(top, GaussianPosterior(mlp(TOP, (8,), 2 * LOWER)))


PRIORS: dict[str, Callable[[Any, Any], nn.Module]] = {
    "standard": lambda zuko, posterior: StandardNormal(D),
    "mixture": lambda zuko, posterior: GaussianMixture(D, K),
    "vamp": lambda zuko, posterior: vamp(posterior),
    "affine flow": lambda zuko, posterior: coupling_flow(D, "affine"),
    "spline flow": lambda zuko, posterior: coupling_flow(D, "spline"),
    "masked autoregressive": lambda zuko, posterior: autoregressive("masked"),
    "flow matching": lambda zuko, posterior: FlowMatchingPrior(D, (8, 8), steps=4),
    "standard on top": lambda zuko, posterior: hierarchy(StandardNormal(TOP)),
    "vamp on top": lambda zuko, posterior: hierarchy(vamp(posterior.top)),
    "flow on top": lambda zuko, posterior: hierarchy(coupling_flow(TOP, "affine")),
    "flow on flow": lambda zuko, posterior: HierarchicalPrior(
        coupling_flow(TOP, "spline"), coupling_flow(LOWER, "affine", context=TOP)
    ),
    "zuko NSF": lambda zuko, posterior: zukos(zuko, "NSF"),
    "zuko MAF": lambda zuko, posterior: zukos(zuko, "MAF"),
    "zuko RealNVP": lambda zuko, posterior: zukos(zuko, "RealNVP"),
}

# A prior takes any posterior over as many latents, in one level or two. Only a VampPrior on top
# asks for more: it mixes the posterior's own top level, and so there must be one.
PAIRS = [
    (prior, posterior)
    for prior in PRIORS
    for posterior in POSTERIORS
    if prior != "vamp on top" or posterior.startswith("two")
]


@torch.no_grad()
def bend(module: nn.Module, scale: float) -> None:
    """Draw the last layer of couplings and velocity fields, zero at first, at random."""
    for flow in module.modules():
        if isinstance(flow, VelocityField):
            flow.last.weight.normal_(0, scale)
        if isinstance(flow, CouplingFlow):
            for net in flow.nets:
                for parameter in list(net.body.parameters())[-2:]:
                    parameter.normal_(0, scale)


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_every_prior_trains_with_every_posterior(
    request: pytest.FixtureRequest, prior: str, posterior: str
) -> None:
    # Only where zuko's flows take part: the others run with torch as it is.
    zuko = request.getfixturevalue("zuko") if "zuko" in prior + posterior else None
    q = POSTERIORS[posterior](zuko)
    likelihood = GaussianLikelihood(mlp(D, (8,), X), X)
    vae, x = VAE(PRIORS[prior](zuko, q), q, likelihood), torch.randn(N, X)
    bend(vae, 0.1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in vae.named_parameters()}
    for _ in range(3):
        loss = vae(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() and not torch.equal(parameter, before[name]), name
    elbo = vae.elbo(x, S)
    assert elbo.reconstruction.shape == elbo.kl.shape == (S, N)
    assert elbo.value.isfinite().all()
    log_p = vae.log_marginal(x, 3)
    assert log_p.shape == (N,) and log_p.isfinite().all()
    assert vae.sample(4).shape == (4, X) and vae.reconstruct(x).shape == (N, X)


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [("standard", "affine flow"), ("vamp", "affine flow"), ("flow on flow", "two flows")],
)
def test_pairs_learn_and_their_bound_stays_below_the_marginal(prior: str, posterior: str) -> None:
    q = POSTERIORS[posterior](None)
    likelihood = GaussianLikelihood(mlp(D, (8,), X), X)
    vae = VAE(PRIORS[prior](None, q), q, likelihood)
    x = torch.randn(64, 1) + 0.3 * torch.randn(64, X)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    with torch.no_grad():
        start = vae.elbo(x, 50).value.mean()
    for _ in range(60):
        optimizer.zero_grad()
        vae(x).backward()
        optimizer.step()
    with torch.no_grad():
        bound = vae.elbo(x, 50).value.mean()
    assert bound > start + 1
    assert vae.log_marginal(x, 50).mean() > bound


# --- the exact oracle -------------------------------------------------------------------------


def with_flow(exact: Any, kind: str, scale: float | None) -> VAE:
    """The oracle's model with a flow behind its posterior, the identity for no scale."""
    features = len(exact.posterior_scale)
    flow = CouplingFlow(features, context=features, kind=kind).double()
    posterior = FlowPosterior(exact.vae.posterior.net, flow)
    if scale is not None:
        bend(posterior, scale)
    return VAE(exact.vae.prior, posterior, exact.vae.likelihood)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_behind_an_exact_posterior_a_new_flow_keeps_the_bound_exact(
    linear_gaussian: Callable[..., Any], kind: str
) -> None:
    exact = linear_gaussian()
    vae, x = with_flow(exact, kind, scale=None), exact.data(20)
    log_p = exact.log_p(x)
    torch.testing.assert_close(vae.elbo(x, 7).value, log_p.expand(7, 20), rtol=0, atol=1e-9)
    torch.testing.assert_close(vae.log_marginal(x, 3), log_p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_the_marginal_is_reached_through_a_flow_that_bends(
    linear_gaussian: Callable[..., Any], kind: str
) -> None:
    exact = linear_gaussian(widen=1.5)
    vae, x = with_flow(exact, kind, scale=0.03), exact.data(20)
    log_p = exact.log_p(x)
    bound = vae.elbo(x, 500).value.mean(0)
    assert (log_p - bound).mean() > 0.1, "the posterior is exact no more"
    torch.testing.assert_close(vae.log_marginal(x, 5000), log_p, rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_a_flow_prior_that_starts_as_the_standard_normal_keeps_the_bound_exact(
    linear_gaussian: Callable[..., Any], kind: str
) -> None:
    exact = linear_gaussian()
    x: Tensor = exact.data(20)
    prior = CouplingFlow(len(exact.posterior_scale), kind=kind).double()
    vae = VAE(prior, exact.vae.posterior, exact.vae.likelihood)
    log_p = exact.log_p(x)
    torch.testing.assert_close(vae.elbo(x, 7).value, log_p.expand(7, 20), rtol=0, atol=1e-9)
