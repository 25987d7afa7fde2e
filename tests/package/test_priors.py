"""Priors against their closed forms."""

import copy
import io
import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import flowvae_tutorial.vae
from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    InputError,
    StandardNormal,
    VampPrior,
    pseudo_inputs_from,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.networks import OnParts, TwoInputs, mlp

# --- standard normal and mixture of Gaussians -------------------------------------------------


def mixture() -> GaussianMixture:
    """Three components in two dimensions, all different."""
    prior = GaussianMixture(2, 3).double()
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-2.0, 0.5], [1.0, 1.5], [0.5, -2.0]]))
        prior.log_scale.copy_(torch.tensor([[-0.5, 0.1], [-0.3, -0.8], [0.2, -0.6]]))
        prior.logits.copy_(torch.tensor([1.0, 3.0, 2.0]))
    return prior


def test_standard_normal_is_the_closed_form() -> None:
    z = torch.randn(5, 7, 3, dtype=torch.float64)
    p_z = StandardNormal(3).double()()
    assert (p_z.batch_shape, p_z.event_shape) == ((), (3,))
    expected = -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(p_z.log_prob(z), expected, rtol=0, atol=1e-12)


def test_standard_normal_samples_have_mean_zero_and_identity_covariance() -> None:
    z = StandardNormal(3)().sample((40_000,))
    assert z.shape == (40_000, 3)
    # Standard error 1/200 of each mean, at most √2/200 of each covariance.
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(z.T.cov(), torch.eye(3), rtol=0, atol=0.03)


def test_standard_normal_follows_its_module_and_has_no_weights() -> None:
    prior = StandardNormal(3)
    assert prior.state_dict() == {}
    assert list(prior.parameters()) == []
    assert prior().sample().dtype == torch.float32
    assert prior.double()().sample().dtype == torch.float64
    on_meta = prior.to("meta")()
    assert on_meta.base_dist.loc.device.type == on_meta.base_dist.scale.device.type == "meta"


def test_mixture_is_a_log_sum_exp_of_whole_densities() -> None:
    prior = mixture()
    z = torch.randn(5, 7, 2, dtype=torch.float64)
    p_z = prior()
    assert (p_z.batch_shape, p_z.event_shape) == ((), (2,))
    whole = [
        MultivariateNormal(loc, torch.diag((2 * log_scale).exp())).log_prob(z)
        for loc, log_scale in zip(prior.loc, prior.log_scale, strict=True)
    ]
    log_weights = prior.logits - prior.logits.exp().sum().log()
    expected = torch.logsumexp(torch.stack(whole, -1) + log_weights, -1)
    torch.testing.assert_close(p_z.log_prob(z), expected, rtol=0, atol=1e-12)


def test_mixture_is_not_a_product_of_mixtures_per_dimension() -> None:
    prior = mixture()
    z = torch.randn(50, 2, dtype=torch.float64)
    each = torch.distributions.Normal(prior.loc, prior.log_scale.exp()).log_prob(z[:, None])
    product = torch.logsumexp(each + prior.logits.log_softmax(0)[:, None], dim=1).sum(-1)
    assert ((prior().log_prob(z) - product).abs() > 0.1).double().mean() > 0.5


def test_mixture_integrates_to_one() -> None:
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    total = mixture()().log_prob(z).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_mixture_samples_components_by_weight() -> None:
    prior = mixture()
    with torch.no_grad():
        prior.log_scale.fill_(math.log(0.01))
    n = 20_000
    nearest = torch.cdist(prior().sample((n,)), prior.loc.detach()).argmin(-1)
    found = nearest.bincount(minlength=3) / n
    weights = prior.logits.detach().softmax(0)
    error = (weights * (1 - weights) / n).sqrt()
    assert ((found - weights).abs() < 4 * error).all()


def test_mixture_samples_have_the_scales_of_their_component() -> None:
    prior = mixture()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, -1e4, -1e4]))
    z = prior().sample((40_000,))
    scale = prior.log_scale[0].exp().detach()
    torch.testing.assert_close(z.mean(0), prior.loc[0].detach(), rtol=0, atol=0.025)
    torch.testing.assert_close(z.std(0), scale, rtol=0.02, atol=0)


def test_every_parameter_of_a_mixture_gets_a_gradient() -> None:
    prior = GaussianMixture(2, 3)
    prior().log_prob(torch.randn(20, 2)).sum().backward()
    assert {name for name, _ in prior.named_parameters()} == {"loc", "log_scale", "logits"}
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.all(), name


def test_mixture_components_start_apart() -> None:
    loc = GaussianMixture(2, 5).loc
    assert torch.pdist(loc).min() > 0


@pytest.mark.parametrize("features", [0, -1])
def test_standard_normal_without_features_is_refused(features: int) -> None:
    with pytest.raises(
        InputError, match=rf"\A[^\n]*features must be from 1 to [^\n]* got {features}\Z"
    ):
        StandardNormal(features)


@pytest.mark.parametrize(("features", "components"), [(0, 3), (2, 0), (2, -1)])
def test_mixture_without_features_or_components_is_refused(features: int, components: int) -> None:
    name, bad = ("features", features) if features < 1 else ("components", components)
    with pytest.raises(InputError, match=rf"\A{name} must be from 1 to [^\n]*, got {bad}\Z"):
        GaussianMixture(features, components)


# --- VampPrior --------------------------------------------------------------------------------

X, D, K = 6, 2, 5


def encoder(features: int = X) -> GaussianPosterior:
    return GaussianPosterior(mlp(features, (8,), 2 * D))


def images(n: int, features: int = X) -> Tensor:
    """Black and white."""
    return torch.rand(n, features).round()


def vamp_vae(learned: bool = True) -> VAE:
    posterior = encoder()
    logits = torch.randn(K) if learned else None
    prior = VampPrior(posterior, torch.rand(K, X), logits)
    return VAE(prior, posterior, BernoulliLikelihood(mlp(D, (8,), X)))


@pytest.mark.parametrize("learned", [False, True])
def test_vampprior_is_the_mixture_of_posteriors_at_its_pseudo_inputs(learned: bool) -> None:
    vae = vamp_vae(learned).double()
    z = torch.randn(3, 7, D, dtype=torch.float64)
    p_z = vae.prior()
    assert (p_z.batch_shape, p_z.event_shape) == ((), (D,))
    each = [vae.posterior(u[None]).log_prob(z) for u in vae.prior.pseudo_inputs]
    weights = (
        vae.prior.logits.softmax(0) if learned else torch.full((K,), 1 / K, dtype=torch.float64)
    )
    expected = sum(w * q.exp() for w, q in zip(weights, each, strict=True)).log()
    torch.testing.assert_close(p_z.log_prob(z), expected, rtol=0, atol=1e-10)


def test_vampprior_follows_the_encoder() -> None:
    vae = vamp_vae()
    z = torch.randn(7, D)
    before = vae.prior().log_prob(z)
    with torch.no_grad():
        vae.posterior.net[-1].bias.add_(1)
    assert ((vae.prior().log_prob(z) - before).abs() > 1e-3).all(), "nothing is cached"


def test_vampprior_starts_at_the_pseudo_inputs_given() -> None:
    start = torch.rand(K, X)
    given = start.clone()
    for bounds in ((0.0, 1.0), (-1.0, 3.0)):
        prior = VampPrior(encoder(), start, bounds=bounds)
        # On a bound they start 2 % of the range inside.
        near = 0.02 * (bounds[1] - bounds[0]) + 1e-6
        torch.testing.assert_close(prior.pseudo_inputs.detach(), given, rtol=0, atol=near)
    assert torch.equal(VampPrior(encoder(), start, bounds=None).pseudo_inputs, given)
    prior = VampPrior(encoder(), start, bounds=None)
    with torch.no_grad():
        prior.raw.add_(1)
    assert torch.equal(start, given), "the caller's tensor is left alone"


def test_the_shared_posterior_is_registered_once() -> None:
    vae = vamp_vae()
    assert {name for name, _ in vae.prior.named_parameters()} == {"raw", "logits"}
    state = vae.state_dict()
    assert not any("prior." in name and "net" in name for name in state)
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    own = [*vae.prior.parameters(), *vae.posterior.parameters(), *vae.likelihood.parameters()]
    assert [id(p) for p in vae.parameters()] == [id(p) for p in own]


def test_a_copy_of_a_model_shares_its_own_posterior() -> None:
    vae, z = vamp_vae(), torch.randn(7, D)
    before = vae.prior().log_prob(z)
    clone = copy.deepcopy(vae)
    torch.testing.assert_close(clone.prior().log_prob(z), before)
    with torch.no_grad():
        clone.posterior.net[-1].bias.add_(1)
    assert ((clone.prior().log_prob(z) - before).abs() > 1e-3).all()
    torch.testing.assert_close(vae.prior().log_prob(z), before)


@pytest.mark.parametrize("learned", [False, True])
def test_saved_weights_are_the_whole_model(learned: bool) -> None:
    first, second, z = vamp_vae(learned), vamp_vae(learned), torch.randn(7, D)
    assert not torch.allclose(first.prior().log_prob(z), second.prior().log_prob(z))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(first.prior().log_prob(z), second.prior().log_prob(z))
    x = images(9)
    torch.manual_seed(3)
    loss = first.loss(x)
    torch.manual_seed(3)
    torch.testing.assert_close(second.loss(x), loss)


@pytest.mark.parametrize("learned", [False, True])
def test_dtype_and_device_move_prior_and_posterior_together(learned: bool) -> None:
    vae = vamp_vae(learned)
    components = vae.double().prior().components
    assert components.base_dist.loc.dtype == torch.float64
    assert vae.prior().log_prob(torch.zeros(1, D).double()).dtype == torch.float64
    assert vae.prior().sample((2,)).dtype == torch.float64
    assert vae.elbo(images(3).double()).value.dtype == torch.float64
    on_meta = vae.to("meta").prior()
    assert on_meta.logits.device.type == on_meta.components.base_dist.loc.device.type == "meta"


def test_every_part_of_a_vampprior_gets_a_gradient() -> None:
    vae = vamp_vae()
    vae.prior().log_prob(vae.prior().sample((200,))).sum().backward()
    assert vae.prior.raw.grad.all() and vae.prior.logits.grad.all()
    for name, parameter in vae.posterior.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), f"{name}, through the prior"


def test_equal_weights_are_fixed_and_learned_ones_start_where_told() -> None:
    assert not vamp_vae(learned=False).prior.logits.requires_grad
    logits = torch.randn(K)
    prior = VampPrior(encoder(), torch.rand(K, X), logits)
    assert torch.equal(prior.logits, logits) and prior.logits.requires_grad
    assert prior.logits.data_ptr() != logits.data_ptr()


def slopes(posterior: nn.Module, raw: Tensor, pseudo_inputs: Tensor) -> Tensor:
    """The share of pseudo-input pixels with a gradient, for latents of real images."""
    z = posterior(images(50, raw.shape[1])).sample()
    each = posterior(pseudo_inputs).log_prob(z[:, None]).logsumexp(-1).sum()
    (slope,) = torch.autograd.grad(each, raw)
    return (slope != 0).double().mean()


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_no_pixel_starts_with_a_dead_gradient_where_clipping_kills_half(noise: float) -> None:
    x = load("digits-binary").train
    posterior = GaussianPosterior(mlp(x.shape[1], (16,), 2 * D))
    prior = VampPrior(posterior, pseudo_inputs_from(x, 20, noise))
    assert slopes(posterior, prior.raw, prior.pseudo_inputs) == 1
    # Not merely nonzero: at 2 % the sigmoid has 8 % of its steepest slope.
    p = prior.pseudo_inputs.detach()
    assert (p * (1 - p)).min() > 0.019
    # The public version: noisy images, cut off at the bounds wherever they are used.
    raw = pseudo_inputs_from(x, 20, 0.05, bounds=None).requires_grad_()
    assert 0.4 < slopes(posterior, raw, nn.functional.hardtanh(raw, 0, 1)) < 0.6


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)])
def test_pseudo_inputs_stay_within_bounds_after_any_step(bounds: tuple[float, float]) -> None:
    prior = VampPrior(encoder(), torch.rand(K, X), bounds=bounds)
    with torch.no_grad():
        prior.raw.add_(1e4 * torch.randn(K, X))
    low, high = bounds
    assert prior.pseudo_inputs.min() >= low and prior.pseudo_inputs.max() <= high
    assert prior.pseudo_inputs.max() - prior.pseudo_inputs.min() > 0.99 * (high - low)
    assert prior().log_prob(torch.zeros(D)).isfinite()


def test_without_bounds_pseudo_inputs_go_where_the_data_are() -> None:
    start = 5 * torch.randn(K, X)
    prior = VampPrior(encoder(), start, bounds=None)
    assert torch.equal(prior.pseudo_inputs, start)
    with torch.no_grad():
        prior.raw.add_(100)
    assert torch.equal(prior.pseudo_inputs, start + 100)


def test_pseudo_inputs_are_encoded_once_a_call_of_the_vae(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flowvae_tutorial.vae, "CHUNK", 8)
    vae = vamp_vae()
    encoded: list[int] = []
    vae.posterior.register_forward_hook(lambda module, inputs, output: encoded.append(len(*inputs)))
    x = images(20)
    calls: dict[str, Callable[[], object]] = {
        "elbo": lambda: vae.elbo(x, 30),
        "loss": lambda: vae.loss(x),
        "sample": lambda: vae.sample(30),
        # 3 chunks of examples, each with 13 chunks of samples.
        "log_marginal": lambda: vae.log_marginal(x, 13),
    }
    for name, call in calls.items():
        encoded.clear()
        call()
        assert encoded.count(K) == 1, name
        assert sum(encoded) == K + (0 if name == "sample" else 20), name
    encoded.clear()
    vae.reconstruct(x)
    assert encoded == [20], "no prior is needed"


class Near(nn.Module):
    """q(z | x) = N(x, 0.01²): a latent tells which pseudo-input it came from."""

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x, torch.full_like(x, 0.01)), 1)


def counts(prior: VampPrior, n: int) -> Tensor:
    distance, nearest = torch.cdist(prior().sample((n,)), prior.pseudo_inputs.detach()).min(-1)
    assert distance.max() < 0.1
    return nearest.bincount(minlength=len(prior.raw))


def test_vampprior_samples_pick_pseudo_inputs_by_weight() -> None:
    centres, n = 3 * torch.randn(5, 3), 5000
    weights = torch.tensor([0.05, 0.1, 0.5, 0.15, 0.2], dtype=torch.float64)
    learned = VampPrior(Near(), centres, weights.log().float(), bounds=None)
    expected = (weights * n).numpy()
    assert stats.chisquare(counts(learned, n), expected).pvalue > 1e-3
    equal = VampPrior(Near(), centres, bounds=None)
    assert stats.chisquare(counts(equal, n)).pvalue > 1e-3
    assert stats.chisquare(counts(equal, n), expected).pvalue < 1e-9


def test_few_vampprior_samples_are_not_those_of_the_first_pseudo_inputs() -> None:
    prior = VampPrior(Near(), 10 * torch.arange(50.0)[:, None].expand(50, 2), bounds=None)
    picked = (prior().sample((10,))[:, 0] / 10).round()
    assert picked.max() >= 10, "ten of fifty, and not the first ten"
    assert not torch.equal(picked, (prior().sample((10,))[:, 0] / 10).round())


def test_vampprior_over_a_flow_posterior_trains(zuko: ModuleType) -> None:
    flow = zuko.flows.MAF(D, X, transforms=2, hidden_features=(16,))
    x = 0.5 * torch.randn(64, X) + torch.randn(64, 1)
    prior = VampPrior(flow, pseudo_inputs_from(x, K, bounds=None), torch.zeros(K), bounds=None)
    vae = VAE(prior, flow, GaussianLikelihood(mlp(D, (16,), X), X))
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = vae(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert prior.raw.grad.any(-1).all() and prior.logits.grad.all()
    assert all(p.grad is not None and p.grad.any() for p in flow.parameters())
    assert vae.log_marginal(x, 20).isfinite().all()
    assert vae.sample(7).shape == (7, X)


# --- where pseudo-inputs start ----------------------------------------------------------------


def test_pseudo_inputs_are_different_examples_drawn_at_random() -> None:
    x = torch.arange(100.0)[:, None] / 100
    first, second = (pseudo_inputs_from(x, 30, noise=0) for _ in range(2))
    for chosen in (first, second):
        assert chosen.shape == (30, 1)
        assert torch.isin(chosen, x).all() and len(chosen.unique()) == 30
        assert chosen.max() > 0.5, "not the first 30"
    assert not torch.equal(first, second)
    assert torch.equal(pseudo_inputs_from(x, 100, noise=0).sort(0).values, x)


def test_pseudo_inputs_come_from_torchs_random_state() -> None:
    x = torch.rand(50, 3)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(pseudo_inputs_from(x, 5))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_pseudo_inputs_start_with_noise_and_within_bounds() -> None:
    x = torch.full((100, 200), 0.5)
    assert pseudo_inputs_from(x, 100).std().item() == pytest.approx(0.05, rel=0.05)
    assert pseudo_inputs_from(x, 100, noise=0.1).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(x, torch.full((100, 200), 0.5))
    binary = images(100, 200)
    inside = pseudo_inputs_from(binary, 100, noise=0.2)
    assert (inside.min(), inside.max()) == (0, 1)
    inside = pseudo_inputs_from(binary, 100, noise=0.2, bounds=(-0.1, 1.2))
    assert inside.min() == pytest.approx(-0.1) and inside.max() == pytest.approx(1.2)
    free = pseudo_inputs_from(binary, 100, noise=0.2, bounds=None)
    assert free.min() < -0.3 and free.max() > 1.3


def test_pseudo_inputs_from_data_out_of_bounds_are_refused_and_not_clipped() -> None:
    message = r"\A[^\n]*within bounds \(0.0, 1.0\), got \[-2\.[^\n]*bounds=None takes any\Z"
    with pytest.raises(InputError, match=message):
        pseudo_inputs_from(load("rings").train, 1000)


# --- hierarchical prior -----------------------------------------------------------------------


def hierarchy(top: Callable[[HierarchicalPosterior], nn.Module]) -> VAE:
    """Levels of D = 2 above 3 latents."""
    both = TwoInputs(mlp(X, (), 8), mlp(D, (), 8), mlp(16, (), 6))
    posterior = HierarchicalPosterior(encoder(), GaussianPosterior(both))
    prior = HierarchicalPrior(top(posterior), GaussianPosterior(mlp(D, (8,), 6)))
    decoder = OnParts(D, TwoInputs(mlp(D, (), 8), mlp(3, (), 8), mlp(16, (), X)))
    return VAE(prior, posterior, BernoulliLikelihood(decoder))


def standard_top() -> VAE:
    return hierarchy(lambda posterior: StandardNormal(D))


def vamp_top() -> VAE:
    return hierarchy(lambda posterior: VampPrior(posterior.top, torch.rand(K, X)))


@pytest.mark.parametrize("make", [standard_top, vamp_top])
def test_hierarchical_prior_is_its_top_times_its_conditional(make: Callable[[], VAE]) -> None:
    vae = make().double()
    p_z = vae.prior()
    assert (p_z.batch_shape, p_z.event_shape) == ((), (5,))
    z = p_z.sample((3, 7))
    assert z.shape == (3, 7, 5)
    z2, z1 = z[..., :D], z[..., D:]
    loc, log_scale = vae.prior.conditional.net(z2).chunk(2, dim=-1)
    lower = Normal(loc, log_scale.exp()).log_prob(z1).sum(-1)
    if make is standard_top:
        top = Normal(0, 1).log_prob(z2).sum(-1)
    else:
        u = vae.prior.top.pseudo_inputs
        each = torch.stack([vae.posterior.top(row[None]).log_prob(z2) for row in u])
        top = each.logsumexp(0) - math.log(K)
    torch.testing.assert_close(p_z.log_prob(z), top + lower, rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [standard_top, vamp_top])
def test_every_parameter_of_a_hierarchy_learns(make: Callable[[], VAE]) -> None:
    vae, x = make(), images(64)
    vae(x).backward()
    still = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert vae.sample(4).shape == (4, X) and vae.reconstruct(x).shape == x.shape
    assert vae.log_marginal(x, 3).isfinite().all()


def test_a_vampprior_on_top_shares_the_top_posterior_and_no_more() -> None:
    vae = vamp_top()
    assert [name for name, _ in vae.prior.top.named_parameters()] == ["raw"]
    state = vae.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    lower: list[object] = []
    vae.posterior.conditional.register_forward_hook(lambda *call: lower.append(call))
    vae.prior().log_prob(torch.zeros(1, 5))
    assert lower == [], "pseudo-inputs go through q(z₂ | x) alone"
    clone = copy.deepcopy(vae)
    with torch.no_grad():
        clone.posterior.top.net[-1].bias.add_(1)
    z = torch.randn(7, 5)
    assert not torch.allclose(clone.prior().log_prob(z), vae.prior().log_prob(z))


# --- bad input --------------------------------------------------------------------------------


class Undefined(nn.Module):
    """A posterior that can be sampled and has no density."""

    def forward(self, x: Tensor) -> Distribution:
        class Sampler(Distribution):
            arg_constraints = {}  # noqa: RUF012

            def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
                return torch.zeros(*sample_shape, *self.batch_shape, D)

        return Sampler(x.shape[:1], torch.Size([D]), validate_args=False)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no pseudo-inputs": (
        lambda: VampPrior(encoder(), torch.zeros(0, X)),
        r"pseudo_inputs is empty",
    ),
    "one pseudo-input without its row": (
        lambda: VampPrior(encoder(), torch.zeros(X)),
        r"pseudo_inputs must have shape \(N, X\), got \(6,\)",
    ),
    "wrong width": (
        lambda: VampPrior(encoder(), torch.rand(K, X + 1)),
        "does not take pseudo_inputs of width 7",
    ),
    "wrong dtype": (
        lambda: VampPrior(encoder(), torch.rand(K, X).double()),
        r"pseudo_inputs is torch\.float64, the model torch\.float32: convert one",
    ),
    "no width": (
        lambda: VampPrior(encoder(), torch.zeros(K, 0)),
        r"pseudo_inputs must have shape \(N, X\), got \(5, 0\)",
    ),
    "whole numbers": (
        lambda: VampPrior(encoder(), torch.ones(K, X).long(), bounds=None),
        "pseudo_inputs must be floating point, got torch.int64",
    ),
    "weights that are no numbers": (
        lambda: VampPrior(encoder(), torch.rand(K, X), torch.full((K,), math.nan)),
        "logits must be finite",
    ),
    "an object that is no distribution": (
        lambda: VampPrior(nn.Identity(), torch.rand(K, X)),
        "the posterior has no density",
    ),
    "NaN": (
        lambda: VampPrior(encoder(), torch.full((K, X), math.nan)),
        "pseudo_inputs has NaN or infinite values",
    ),
    "infinite": (
        lambda: VampPrior(encoder(), torch.full((K, X), math.inf), bounds=None),
        "pseudo_inputs has NaN or infinite values",
    ),
    "above the bounds": (
        lambda: VampPrior(encoder(), torch.rand(K, X) + 0.5),
        r"within bounds \(0.0, 1.0\), got \[.*\]; bounds=None",
    ),
    "below the bounds": (
        lambda: VampPrior(encoder(), torch.rand(K, X) - 3, bounds=(-2, 2)),
        r"within bounds \(-2.0, 2.0\)",
    ),
    "bounds the wrong way round": (
        lambda: VampPrior(encoder(), torch.rand(K, X), bounds=(1, 0)),
        r"bounds must be two numbers, the lower first, [^\n]* got \(1, 0\)",
    ),
    "too few weights": (
        lambda: VampPrior(encoder(), torch.rand(K, X), torch.zeros(K - 1)),
        r"logits .*, one a pseudo-input: \(5,\), .*; got \(4,\)",
    ),
    "weights in a column": (
        lambda: VampPrior(encoder(), torch.rand(K, X), torch.zeros(K, 1)),
        r"logits .*, one a pseudo-input: \(5,\), .*; got \(5, 1\)",
    ),
    "a posterior without densities": (
        lambda: VampPrior(Undefined(), torch.rand(K, X)),
        "the posterior has no density",
    ),
    "weights of another dtype": (
        lambda: VampPrior(encoder(), torch.rand(K, X), torch.zeros(K).double()),
        r"logits .* \(5,\), torch\.float32, cpu; got \(5,\), torch\.float64, cpu",
    ),
    "NumPy": (
        lambda: VampPrior(encoder(), torch.rand(K, X).numpy()),
        "pseudo_inputs must be a tensor, got ndarray: use torch.as_tensor",
    ),
    "8 bits": (
        lambda: VampPrior(encoder(), torch.ones(K, X).byte()),
        r"must be floating point, got torch\.uint8: .* pseudo_inputs\.float\(\) / 255",
    ),
    "another device": (
        lambda: VampPrior(encoder(), torch.zeros(K, X, device="meta")),
        r"pseudo_inputs is on meta, the model on cpu: move one",
    ),
    "wrong dtype for a method": (
        lambda: VampPrior(encoder().forward, torch.rand(K, X).double()),
        r"pseudo_inputs is torch\.float64, the model torch\.float32",
    ),
    "NumPy data": (
        lambda: pseudo_inputs_from(torch.rand(9, X).numpy(), K),
        "x must be a tensor, got ndarray",
    ),
    "data of 8 bits": (
        lambda: pseudo_inputs_from(torch.ones(9, X).byte(), K),
        r"x must be floating point, got torch\.uint8",
    ),
    "pictures that are not flat": (
        lambda: pseudo_inputs_from(torch.rand(9, 2, 3), K),
        r"x must have shape \(N, X\), got \(9, 2, 3\): flatten",
    ),
    "data that are not finite": (
        lambda: pseudo_inputs_from(torch.full((9, X), math.nan), K, bounds=None),
        "x has NaN or infinite values",
    ),
    "more pseudo-inputs than examples": (
        lambda: pseudo_inputs_from(torch.rand(4, X), 5),
        "cannot start 5 pseudo-inputs from 4 examples",
    ),
    "no pseudo-inputs from data": (
        lambda: pseudo_inputs_from(torch.rand(4, X), 0),
        "cannot start 0 pseudo-inputs from 4 examples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_vampprior_that_cannot_be_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_conditional_that_does_not_take_the_tops_latents_is_refused_in_one_line() -> None:
    conditional = GaussianPosterior(nn.Linear(2, 4))
    with pytest.raises(InputError, match=r"\Athe conditional does not take[^\n]*size 3[^\n]*\Z"):
        HierarchicalPrior(StandardNormal(3), conditional)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StandardNormal(2),
        lambda: GaussianMixture(2, 3),
        lambda: vamp_vae().prior,
        lambda: standard_top().prior,
    ],
    ids=["standard normal", "mixture", "vampprior", "hierarchy"],
)
def test_a_prior_refuses_what_it_would_ignore(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match=r"\Athis prior takes no context: call it without one.*\Z"):
        make()(torch.zeros(4, 2))


def test_a_prior_that_ignores_the_top_is_no_conditional() -> None:
    with pytest.raises(InputError, match=r"\Athis prior takes no context[^\n]*\Z"):
        HierarchicalPrior(StandardNormal(2), StandardNormal(3))
