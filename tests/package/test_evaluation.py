"""What is reported of a model, against numbers known beforehand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import flowvae_tutorial.evaluation
from flowvae_tutorial import (
    VAE,
    CouplingFlow,
    FlowPosterior,
    GaussianLikelihood,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    InputError,
    StandardNormal,
    active_units,
    aggregated_posterior,
    elbo_surgery,
    energy_distance,
    evaluate,
    mean_and_standard_error,
    modes_found,
    precision_and_recall,
    prior_gap,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.evaluation import elbo_by_level


class Affine(nn.Module):
    """q(z | x) = N(gain · x + shift, scale²), each latent of its own pixel."""

    def __init__(self, gain: Tensor, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.gain, self.shift, self.scale = gain, shift, scale

    def forward(self, x: Tensor) -> Distribution:
        loc = x * self.gain + self.shift
        return Independent(Normal(loc, self.scale.expand_as(loc)), 1)


def vae_with(gain: list[float], shift: list[float], scale: list[float]) -> VAE:
    d = len(gain)
    numbers = (torch.tensor(v, dtype=torch.float64) for v in (gain, shift, scale))
    likelihood = GaussianLikelihood(nn.Linear(d, d), d).double()
    return VAE(StandardNormal(d).double(), Affine(*numbers), likelihood)


def test_mean_and_standard_error_are_numpys() -> None:
    values = torch.randn(37, dtype=torch.float64) * 3 + 5
    mean, error = mean_and_standard_error(values)
    assert mean == pytest.approx(np.mean(values.numpy()), rel=1e-12)
    assert error == pytest.approx(np.std(values.numpy(), ddof=1) / np.sqrt(37), rel=1e-12)


@pytest.mark.parametrize("n", [0, 1])
def test_a_standard_error_of_fewer_than_two_values_is_refused(n: int) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*at least two values\Z"):
        mean_and_standard_error(torch.zeros(n))


def standardised(n: int, d: int) -> Tensor:
    x = torch.randn(n, d, dtype=torch.float64)
    return (x - x.mean(0)) / x.std(0)


def test_active_units_are_those_whose_means_vary_by_more_than_the_threshold() -> None:
    deviations = [0.0, math.sqrt(0.0099), math.sqrt(0.0101), 0.5, -0.5]
    # Wide or narrow, shifted or not, the posterior around its mean counts for nothing.
    vae = vae_with(deviations, [3.0, 0.0, 0.0, 0.0, 0.0], [1.0, 5.0, 1e-3, 1e-3, 5.0])
    x = standardised(50, 5)
    assert active_units(vae, x).tolist() == [False, False, True, True, True]
    assert active_units(vae, x, threshold=0.2).tolist() == [False, False, False, True, True]
    assert active_units(vae, x, threshold=0.26).tolist() == [False] * 5


def gaussian_and_flow(deviations: list[float]) -> tuple[VAE, VAE]:
    """One model twice, the second time with a flow, the identity, behind its posterior."""
    d = len(deviations)
    net = nn.Linear(d, 2 * d).double()
    with torch.no_grad():
        net.weight.copy_(torch.cat([torch.diag(torch.tensor(deviations)), torch.zeros(d, d)]))
        net.bias.copy_(torch.cat([torch.zeros(d), torch.full((d,), -2.0)]))
    likelihood = GaussianLikelihood(nn.Linear(d, d), d).double()
    flow = CouplingFlow(d, context=d, hidden=(8,)).double()
    posteriors = GaussianPosterior(net), FlowPosterior(net, flow)
    gaussian, bent = (VAE(StandardNormal(d).double(), q, likelihood) for q in posteriors)
    return gaussian, bent


def test_a_flow_that_changes_nothing_keeps_the_active_units() -> None:
    gaussian, flow = gaussian_and_flow([0.0, 0.02, 0.5, -0.5])
    x = standardised(400, 4)
    with pytest.raises(NotImplementedError):
        _ = flow.posterior(x).mean
    # Scale e⁻² and 256 samples: sampling adds 7e-5 to the variance of a mean.
    assert active_units(gaussian, x).tolist() == [False, False, True, True]
    assert active_units(flow, x).tolist() == [False, False, True, True]
    assert active_units(flow, x, threshold=0.3).tolist() == [False] * 4


def test_the_noise_of_an_estimated_mean_activates_no_unit() -> None:
    """Scale 4 and 256 samples: a mean has a variance of 0.06 of its own, the threshold is 0.01."""
    _, vae = gaussian_and_flow([0.0, 0.02, 0.5, -0.5])
    with torch.no_grad():
        vae.posterior.net.bias[4:] = math.log(4)
    active = active_units(vae, standardised(2000, 4))
    assert active.tolist() == [False, False, True, True]


def test_units_that_a_flow_alone_moves_are_active() -> None:
    _, vae = gaussian_and_flow([0.0, 0.5])
    x = standardised(400, 2)
    assert active_units(vae, x).tolist() == [False, True]
    # The mean of the second goes into the first: a shift by the context.
    with torch.no_grad():
        for net in vae.posterior.flow.nets:
            net.of_context.weight.copy_(torch.tensor([[0.0, 1.0]]).expand(8, 2))
            net.body[-1][-1].weight[0] = 1.0
    assert active_units(vae, x).tolist() == [True, True]


class Wide(nn.Module):
    """q(z₂ | x) = N(0, 16 x²)."""

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(torch.zeros_like(x), (4 * x.abs()).clamp(min=1e-3)), 1)


class Squared(nn.Module):
    """q(z₁ | x, z₂) and p(z₁ | z₂): about z₂² / 20."""

    def forward(self, *context: Tensor) -> Distribution:
        return Independent(Normal(context[-1] ** 2 / 20, 0.1), 1)


def test_a_lower_unit_is_active_by_its_mean_and_not_by_that_at_the_mean_above() -> None:
    # z₂ has the same mean for all x, and a noise of 0.06 in an average of 256; E[z₁] = 0.8 x².
    prior = HierarchicalPrior(StandardNormal(1).double(), Squared())
    likelihood = GaussianLikelihood(nn.Linear(2, 1), 1).double()
    vae = VAE(prior, HierarchicalPosterior(Wide(), Squared()), likelihood)
    assert active_units(vae, standardised(2000, 1)).tolist() == [False, True]


def test_posterior_means_by_samples_do_not_depend_on_the_rows_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flowvae_tutorial.evaluation, "ROWS", 7)
    gaussian, flow = gaussian_and_flow([0.0, 0.5])
    x = standardised(20, 2)
    for vae in (gaussian, flow):
        assert active_units(vae, x).tolist() == [False, True]


def test_aggregated_posterior_is_the_mean_of_the_posterior_densities() -> None:
    vae = vae_with([1.0, 0.5], [0.2, -0.3], [0.4, 0.7])
    x, z = (torch.randn(n, 2, dtype=torch.float64) for n in (9, 5))
    q_z = aggregated_posterior(vae, x)
    assert (q_z.batch_shape, q_z.event_shape) == ((), (2,))
    each = torch.stack([vae.posterior(row[None]).log_prob(z) for row in x])
    expected = torch.logsumexp(each, 0) - math.log(9)
    torch.testing.assert_close(q_z.log_prob(z), expected, rtol=0, atol=1e-12)


def test_aggregated_posterior_samples_every_example_alike() -> None:
    vae = vae_with([1.0], [0.0], [0.01])
    x = torch.tensor([[-2.0], [0.0], [1.0], [5.0]], dtype=torch.float64)
    n = 10_000
    nearest = torch.cdist(aggregated_posterior(vae, x).sample((n,)), x).argmin(-1)
    found = nearest.bincount(minlength=4) / n
    assert ((found - 0.25).abs() < 4 * math.sqrt(0.25 * 0.75 / n)).all()


def images(n: int) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64)


def test_prior_gap_is_nothing_where_the_latents_follow_the_prior() -> None:
    # Gain² + scale² = 1: the aggregated posterior is N(0, I).
    vae = vae_with([0.6, 0.8], [0.0, 0.0], [0.8, 0.6])
    gap = prior_gap(vae, images(4000), images(4000), components=2)
    assert gap.shape == (4000,)
    mean, error = mean_and_standard_error(gap)
    assert mean == pytest.approx(0, abs=4 * error)
    assert error < 0.002


@pytest.mark.parametrize("components", [1, 3])
def test_prior_gap_is_the_kl_of_a_gaussian_aggregated_posterior(components: int) -> None:
    gain, shift, scale = [0.6, 0.2], [0.7, -0.3], [0.3, 0.4]
    vae = vae_with(gain, shift, scale)
    gap = prior_gap(vae, images(4000), images(4000), components)
    mean, error = mean_and_standard_error(gap)
    variance = [g**2 + s**2 for g, s in zip(gain, scale, strict=True)]
    kl = sum((v + m**2 - 1 - math.log(v)) / 2 for v, m in zip(variance, shift, strict=True))
    assert mean == pytest.approx(kl, abs=3 * error)
    assert error < 0.02


def test_prior_gap_sees_a_hole_that_no_single_gaussian_fits() -> None:
    vae = vae_with([1.0, 1.0], [0.0, 0.0], [0.3, 0.3])
    x = images(4000)
    x[:, 0] = 2 * x[:, 0].sign()
    gap = prior_gap(vae, x[:2000], x[2000:], components=2)
    # log q(z) for two Gaussians in the first latent and one of variance 1.09 in the second.
    z = vae.posterior(x).sample()
    spread = torch.diag(torch.tensor([0.09, 1.09], dtype=torch.float64))
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    each = torch.stack([MultivariateNormal(centre, spread).log_prob(z) for centre in centres])
    expected = each.logsumexp(0) - math.log(2) - vae.prior().log_prob(z)
    (mean, error), (kl, kl_error) = map(mean_and_standard_error, (gap, expected))
    assert mean == pytest.approx(kl, abs=4 * math.hypot(error, kl_error))


def test_evaluation_of_an_exact_posterior_is_the_closed_form(
    linear_gaussian: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Batches of uneven length: each example must weigh the same.
    monkeypatch.setattr(flowvae_tutorial.evaluation, "ROWS", 7)
    exact = linear_gaussian()
    x = exact.data(20)
    found = evaluate(exact.vae, x, num_samples=3, elbo_samples=2000)
    torch.testing.assert_close(found.nll, -exact.log_p(x), rtol=0, atol=1e-9)
    assert found.elbo == pytest.approx(exact.log_p(x).mean().item(), abs=1e-9)
    # The KL's estimate has a deviation under 2 nats for each of 20 × 2,000 samples.
    (kl,) = found.kl
    assert kl == pytest.approx(exact.kl(x).mean().item(), abs=4 * 2 / 200)
    assert found.reconstruction == pytest.approx(found.elbo + kl, abs=1e-12)
    assert found.active.tolist() == [True, True]


def test_evaluation_of_a_flow_posterior_is_that_of_the_gaussian_it_starts_as(
    linear_gaussian: Callable[..., Any],
) -> None:
    exact = linear_gaussian()
    posterior = FlowPosterior(exact.vae.posterior.net, CouplingFlow(2, context=2).double())
    vae = VAE(exact.vae.prior, posterior, exact.vae.likelihood)
    x = exact.data(20)
    found = evaluate(vae, x, num_samples=3, elbo_samples=200)
    torch.testing.assert_close(found.nll, -exact.log_p(x), rtol=0, atol=1e-9)
    assert found.elbo == pytest.approx(exact.log_p(x).mean().item(), abs=1e-9)
    (kl,) = found.kl
    assert kl == pytest.approx(exact.kl(x).mean().item(), abs=4 * 2 / (20 * 200) ** 0.5)
    assert found.active.tolist() == [True, True]


def test_evaluation_agrees_with_the_models_own_figures(linear_gaussian: Callable[..., Any]) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(300)
    found = evaluate(exact.vae, x, num_samples=500, elbo_samples=50)
    with torch.no_grad():
        elbo = exact.vae.elbo(x, 50)
    log_p = exact.vae.log_marginal(x, 500)
    assert found.nll.shape == (300,)
    assert found.nll.mean().item() == pytest.approx(-log_p.mean().item(), abs=0.01)
    (kl,) = found.kl
    for part, value in [(elbo.reconstruction, found.reconstruction), (elbo.kl, kl)]:
        error = (part.var(0) / 50).sum().sqrt().item() / 300
        assert value == pytest.approx(part.mean().item(), abs=4 * math.sqrt(2) * error)
    assert -found.nll.mean() > found.elbo
    assert isinstance(kl, float) and isinstance(found.reconstruction, float)


def test_a_hierarchy_with_exact_posteriors_has_an_exact_bound(
    two_levels: Callable[..., Any],
) -> None:
    exact = two_levels()
    x = exact.data(30)
    log_p = exact.log_p(x)
    bound = exact.vae.elbo(x, 4).value
    torch.testing.assert_close(bound, log_p.expand(4, 30), rtol=0, atol=1e-9)
    torch.testing.assert_close(exact.vae.log_marginal(x, 3), log_p, rtol=0, atol=1e-9)
    reconstruction, kl = elbo_by_level(exact.vae, x, 4)
    total = reconstruction - kl.sum(0)
    torch.testing.assert_close(total, log_p.expand(4, 30), rtol=0, atol=1e-9)


def test_a_hierarchys_marginal_is_reached_from_wide_posteriors(
    two_levels: Callable[..., Any],
) -> None:
    exact = two_levels(widen=1.3)
    x = exact.data(20)
    found, log_p = exact.vae.log_marginal(x, 20_000), exact.log_p(x)
    assert (exact.vae.elbo(x, 500).value.mean(0) < log_p - 0.05).all()
    torch.testing.assert_close(found, log_p, rtol=0, atol=0.05)


@pytest.mark.parametrize("widen", [1.0, 1.5])
def test_the_kl_of_each_level_is_the_closed_form(
    two_levels: Callable[..., Any], widen: float
) -> None:
    exact = two_levels(widen=widen)
    x = exact.data(10)
    reconstruction, kl = elbo_by_level(exact.vae, x, 10_000)
    assert (reconstruction.shape, kl.shape) == ((10_000, 10), (2, 10_000, 10))
    for found, closed in zip(kl, exact.kl(x), strict=True):
        error = found.std(0) / 100
        assert ((found.mean(0) - closed).abs() < 4.5 * error).all()
        assert error.max() < 0.1 < closed.min(), "the check can tell the levels apart"
    assert (exact.kl(x)[0] - exact.kl(x)[1]).abs().max() > 1


def test_levels_sum_to_the_kl_at_the_same_latents(two_levels: Callable[..., Any]) -> None:
    exact = two_levels(widen=1.5)
    x, seen = exact.data(10), []
    exact.vae.likelihood.register_forward_hook(lambda module, inputs, output: seen.append(*inputs))
    _, kl = elbo_by_level(exact.vae, x, 7)
    with torch.no_grad():
        total = exact.vae.posterior(x).log_prob(*seen) - exact.vae.prior().log_prob(*seen)
    torch.testing.assert_close(kl.sum(0), total, rtol=0, atol=1e-10)


def test_a_model_without_levels_has_one(linear_gaussian: Callable[..., Any]) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(5)
    torch.manual_seed(3)
    reconstruction, kl = elbo_by_level(exact.vae, x, 4)
    torch.manual_seed(3)
    terms = exact.vae.elbo(x, 4)
    assert kl.shape == (1, 4, 5)
    torch.testing.assert_close(kl[0], terms.kl)
    torch.testing.assert_close(reconstruction, terms.reconstruction)


@pytest.mark.parametrize(
    ("x", "says"), [(torch.full((3, 6), math.nan), "NaN"), (torch.zeros(3, 5), "shape")]
)
def test_levels_of_bad_data_are_refused(
    two_levels: Callable[..., Any], x: Tensor, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        elbo_by_level(two_levels().vae, x.double(), 2)


def test_evaluation_reports_both_levels_the_top_first(
    two_levels: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowvae_tutorial.evaluation, "ROWS", 7)
    exact = two_levels()
    x = exact.data(20)
    found = evaluate(exact.vae, x, num_samples=3, elbo_samples=2000)
    top, lower = found.kl
    # A deviation under 2 nats a level for each of 20 × 2,000 samples.
    assert top == pytest.approx(exact.kl(x)[0].mean().item(), abs=4 * 2 / 200)
    assert lower == pytest.approx(exact.kl(x)[1].mean().item(), abs=4 * 2 / 200)
    assert found.elbo == pytest.approx(exact.log_p(x).mean().item(), abs=1e-9)
    assert found.elbo == pytest.approx(found.reconstruction - top - lower, abs=1e-12)
    assert found.active.shape == (5,)


def test_evaluation_builds_no_graph(linear_gaussian: Callable[..., Any]) -> None:
    exact = linear_gaussian()
    graphs = []
    exact.vae.likelihood.net.register_forward_hook(
        lambda module, inputs, output: graphs.append(output.requires_grad)
    )
    evaluate(exact.vae, exact.data(5), num_samples=2, elbo_samples=2)
    assert len(graphs) >= 2 and not any(graphs)


def test_evaluation_of_bad_data_is_refused(linear_gaussian: Callable[..., Any]) -> None:
    vae = linear_gaussian().vae
    with pytest.raises(InputError, match=r"\A[^\n]*NaN or infinite[^\n]*\Z"):
        evaluate(vae, torch.full((3, 6), math.nan).double())


@pytest.mark.parametrize(
    "call",
    [
        elbo_surgery,
        active_units,
        aggregated_posterior,
        lambda vae, x: prior_gap(vae, x, torch.zeros(3, 6).double()),
        lambda vae, x: prior_gap(vae, torch.zeros(3, 6).double(), x),
    ],
)
def test_every_figure_of_bad_data_is_refused(
    linear_gaussian: Callable[..., Any], call: Callable[[VAE, Tensor], object]
) -> None:
    vae = linear_gaussian().vae
    for x, message in (
        (torch.full((3, 6), math.nan).double(), "NaN or infinite"),
        (torch.zeros(3, 2, 3).double(), "flatten each example"),
        (torch.zeros(0, 6).double(), "empty"),
    ):
        with pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
            call(vae, x)


def test_more_components_than_latents_are_refused(linear_gaussian: Callable[..., Any]) -> None:
    exact = linear_gaussian()
    with pytest.raises(InputError, match=r"\A[^\n]*20 components[^\n]*between 1 and 10\Z"):
        prior_gap(exact.vae, exact.data(1), exact.data(5))


# --- samples ----------------------------------------------------------------------------------


def test_the_energy_distance_of_two_normals_is_the_closed_form() -> None:
    x, y = torch.randn(4000, 1), 1.5 + torch.randn(4000, 1)

    def mean_distance(shift: float) -> float:
        """E|A − B| for A − B ~ N(shift, 2)."""
        scale = 2**0.5
        return scale * (2 / math.pi) ** 0.5 * math.exp(-(shift**2) / 4) + shift * math.erf(
            shift / 2
        )

    expected = 2 * mean_distance(1.5) - 2 * mean_distance(0.0)
    assert energy_distance(x, y) == pytest.approx(expected, abs=0.06)
    assert energy_distance(x, y) == pytest.approx(energy_distance(y, x), abs=1e-9)


def test_the_energy_distance_of_equal_distributions_is_zero_on_average() -> None:
    draws = torch.tensor([energy_distance(*torch.randn(2, 50, 2)) for _ in range(300)])
    assert draws.mean().abs() < 4 * draws.std() / 300**0.5
    assert (draws < 0).any(), "an estimate that cannot be negative would have a bias"


def test_the_energy_distance_is_that_of_the_definition() -> None:
    x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0]])
    between = (0 + 2 + 1 + 1 + 3 + 1) / 6
    assert energy_distance(x, y) == pytest.approx(2 * between - (1 + 3 + 2) / 3 - 2)


def test_an_energy_distance_of_one_point_is_refused() -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*at least 2 points a set, got 1, 5[^\n]*\Z"):
        energy_distance(torch.zeros(1, 2), torch.zeros(5, 2))


def test_a_cluster_is_found_if_a_quarter_of_its_share_is_near() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    labels = torch.arange(4).repeat_interleave(500)
    points = centres[labels] + torch.randn(2000, 2)
    assert modes_found(points, points, labels) == 4
    assert modes_found(points[labels < 3], points, labels) == 3
    # A fair share of 400 samples is 100: 30 near ones are more than a quarter, 20 are not.
    for few, found in ((30, 2), (20, 1)):
        samples = torch.cat([points[:few], points[-(400 - few) :]])
        assert modes_found(samples, points, labels) == found
    assert modes_found(points + 4.5, points, labels) == 0


def test_modes_of_pictures_are_refused() -> None:
    digits = load("digits")
    with pytest.raises(InputError, match=r"\A[^\n]*points of the plane, got 64 and 64[^\n]*\Z"):
        modes_found(digits.test, digits.train, digits.labels["train"])


# --- precision and recall ---------------------------------------------------------------------


def test_precision_and_recall_count_who_lies_in_a_ball_of_the_other_set() -> None:
    # With k = 1 the radii of the points are 1, 1, 4 and 4, those of the samples 0.5, 0.5 and 4.
    points = torch.tensor([[0.0], [1.0], [10.0], [14.0]])
    samples = torch.tensor([[1.5], [2.0], [6.0]])
    # Covered: 1.5 and 2 by the point 1, 6 by the point 10, on the edge of its ball.
    # Covered of the points: 10 by the sample 6; 1 by 1.5, on the edge; 0 and 14 by none.
    assert precision_and_recall(samples, points, k=1) == pytest.approx((1.0, 0.5))
    assert precision_and_recall(points, samples, k=1) == pytest.approx((0.5, 1.0))
    moved = torch.tensor([[1.5], [2.1], [5.9]])
    assert precision_and_recall(moved, points, k=1) == pytest.approx((1 / 3, 0.25))


def test_the_kth_neighbour_is_one_of_the_others() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    far = torch.tensor([[8.9], [9.1], [50.0], [90.0]])
    # The ball of 6 has radius 3 for k = 1, 5 for k = 2 and 6 for k = 3.
    for k, share in ((1, 0.25), (2, 0.5), (3, 0.5)):
        assert precision_and_recall(far, points, k)[0] == share


def test_equal_distributions_have_equal_precision_and_recall_near_one() -> None:
    precision, recall = precision_and_recall(torch.randn(500, 3), torch.randn(500, 3))
    assert min(precision, recall) > 0.9
    assert abs(precision - recall) < 0.05
    points = torch.randn(20, 3)
    assert precision_and_recall(points, points) == (1, 1)


def test_samples_of_one_mode_are_precise_and_samples_everywhere_have_recall() -> None:
    points = torch.randn(500, 2) + torch.tensor([[-6.0, 0.0], [6.0, 0.0]]).repeat(250, 1)
    collapsed = torch.tensor([6.0, 0.0]) + 0.3 * torch.randn(500, 2)
    precision, recall = precision_and_recall(collapsed, points)
    assert precision > 0.95 and recall < 0.3
    precision, recall = precision_and_recall(15 * torch.randn(500, 2), points)
    assert precision < 0.3 and recall > 0.95


def test_precision_and_recall_hold_far_from_the_origin() -> None:
    # A matrix product would lose all digits of these distances.
    x, y = torch.randn(100, 3).double(), 1 + torch.randn(100, 3).double()
    expected = precision_and_recall(x, y)
    assert precision_and_recall(x + 1e9, y + 1e9) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("n", "m", "k"), [(5, 9, 5), (9, 5, 5), (9, 9, 0), (0, 0, 1)])
def test_too_few_points_for_precision_and_recall_are_refused(n: int, m: int, k: int) -> None:
    with pytest.raises(InputError, match=rf"\A[^\n]*more than k={k} points a set, got {n}, {m}\Z"):
        precision_and_recall(torch.randn(n, 2), torch.randn(m, 2), k)
