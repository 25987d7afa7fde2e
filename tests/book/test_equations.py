"""Every numbered equation of the book, checked with numbers: label `eq-x` by `test_eq_x`."""

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    ExpTransform,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)

from flowvae_tutorial import (
    VAE,
    AutoregressiveFlow,
    Chain,
    CouplingFlow,
    Flow,
    FlowPosterior,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    StandardNormal,
    VampPrior,
    active_units,
    aggregated_posterior,
    elbo_surgery,
    energy_distance,
    mean_and_standard_error,
    mlp,
    refine,
    refine_with_trace,
    rsample_and_log_prob,
)
from flowvae_tutorial.autoregressive import InverseAutoregressive, MaskedNetwork
from flowvae_tutorial.transforms import rational_quadratic_spline

BOOK = Path(__file__).parents[2] / "book"
LABEL = re.compile(r"% (eq-[a-z0-9-]+)\n\$\$$", re.MULTILINE)
TAGGED = re.compile(r"\\tag\{([\d.]+)\} % (eq-[a-z0-9-]+)\n\$\$$", re.MULTILINE)
POINTER = re.compile(r"\[\((\d\.\d+)\)\]\(([^)#]*)(?:#(eq-[a-z0-9-]+))?\)")


def pages() -> dict[Path, str]:
    """The prose of all pages, in their order."""
    found = {}
    for path in sorted(BOOK.rglob("*.md")) + sorted(BOOK.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        found[path] = text
    return found


def labels() -> list[str]:
    """The labels of all numbered equations, in the order of the pages."""
    return [label for text in pages().values() for label in LABEL.findall(text)]


def test_every_equation_has_a_test_and_every_test_an_equation() -> None:
    in_book = {label.replace("-", "_") for label in labels()}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_eq_")}
    assert in_book - tested == set(), "equations without a test"
    assert tested - in_book == set(), "tests of equations that no page has"


def test_no_label_is_used_twice() -> None:
    assert len(labels()) == len(set(labels()))


def test_a_pointer_to_an_equation_has_its_number() -> None:
    texts = pages()
    numbers = {path: dict(map(reversed, TAGGED.findall(text))) for path, text in texts.items()}
    everywhere = {label: number for found in numbers.values() for label, number in found.items()}
    assert set(everywhere) == set(labels())
    pointers = [(path, *found) for path, text in texts.items() for found in POINTER.findall(text)]
    assert len(pointers) > 200
    for path, number, page, label in pointers:
        if label:
            assert number == everywhere[label], (path.name, number, label)
        else:
            assert number in numbers[(path.parent / page).resolve()].values(), (path.name, number)


# --- chapter 0 --------------------------------------------------------------------------------


def quadrature(density: Tensor, *axes: Tensor) -> float:
    """The integral of values on a grid, by the trapezoid rule over its axes from the last on."""
    for axis in reversed(axes):
        density = torch.trapezoid(density, axis, dim=-1)
    return density.item()


def test_eq_log_density() -> None:
    torch.manual_seed(0)
    loc, scale = torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.5
    z = torch.randn(4, 3, 2).double()
    summed = Normal(loc, scale).log_prob(z).sum(-1)
    # The same Gaussian, written as one density with a full covariance matrix.
    exact = MultivariateNormal(loc, torch.diag_embed(scale**2)).log_prob(z)
    assert summed.shape == (4, 3)
    torch.testing.assert_close(summed, exact)
    torch.testing.assert_close(Independent(Normal(loc, scale), 1).log_prob(z), exact)
    line = torch.linspace(-12, 12, 801).double()
    grid = torch.cartesian_prod(line, line).reshape(801, 801, 2)
    density = Normal(loc[0], scale[0]).log_prob(grid).sum(-1).exp()
    assert quadrature(density, line, line) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("bits", [1, 8])
def test_eq_bits_per_dimension(bits: int) -> None:
    # Equally likely levels need as many bits as their number has: 256 levels need 8.
    features = 3
    levels = Independent(Categorical(logits=torch.zeros(features, 2**bits).double()), 1)
    nats = levels.log_prob(torch.zeros(features))
    assert (-nats / (features * math.log(2))).item() == pytest.approx(bits)


def test_eq_kl_sign() -> None:
    q = Normal(torch.tensor(1.0).double(), torch.tensor(0.5).double())
    p = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    z = torch.linspace(-9, 11, 20_001).double()
    integrand = q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))
    by_quadrature = quadrature(integrand, z)
    assert by_quadrature == pytest.approx(kl_divergence(q, p).item(), abs=1e-9)
    assert by_quadrature == pytest.approx(math.log(2) + (0.25 + 1 - 1) / 2, abs=1e-9)
    assert by_quadrature > 0
    # The other direction is another number.
    assert abs(by_quadrature - kl_divergence(p, q).item()) > 1


@pytest.mark.parametrize("num_samples", [2, 3, 5])
def test_eq_monte_carlo(num_samples: int) -> None:
    # h takes four values with equal probability, so every possible sample can be written down.
    h = torch.tensor([0.0, 1.0, 5.0, -2.0]).double()
    samples = h[torch.cartesian_prod(*[torch.arange(4)] * num_samples)]
    estimates, errors = samples.mean(1), samples.std(1) / num_samples**0.5
    torch.testing.assert_close(estimates.mean(), h.mean())
    # Squared, the standard error is on average the estimate's variance.
    torch.testing.assert_close((errors**2).mean(), estimates.var(correction=0))
    mean, error = mean_and_standard_error(samples[7])
    assert (mean, error) == pytest.approx((estimates[7].item(), errors[7].item()))


@pytest.mark.parametrize("shift", [0, -1000, 1000])
def test_eq_log_mean_exp(shift: int) -> None:
    a = [0.3, -1.2, 2.5, -40.0]
    # Decimal numbers have no smallest exponent that is in the way here.
    exact = (sum((Decimal(v) + shift).exp() for v in a) / len(a)).ln()
    values = torch.tensor(a, dtype=torch.float64) + shift
    top = values.max()
    by_equation = top + (values - top).exp().sum().log() - math.log(len(a))
    assert by_equation.item() == pytest.approx(float(exact), abs=1e-12 * max(1, abs(shift)))
    naive = values.exp().mean().log()
    assert bool(naive.isfinite()) == (shift == 0)


def test_eq_mixture() -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(2, 3).double()
    with torch.no_grad():
        prior.logits.copy_(torch.randn(3))
        prior.log_scale.copy_(torch.randn(3, 2) / 2)
        line = torch.linspace(-14, 14, 701).double()
        z = torch.cartesian_prod(line, line).reshape(701, 701, 2)
        log_each = Normal(prior.loc, prior.log_scale.exp()).log_prob(z[:, :, None])
        log_weight = prior.logits.log_softmax(0)
        by_equation = (log_weight + log_each.sum(-1)).logsumexp(-1)
        covariance = torch.diag_embed((2 * prior.log_scale).exp())
        whole = [
            weight * MultivariateNormal(mean, each).log_prob(z).exp()
            for weight, mean, each in zip(log_weight.exp(), prior.loc, covariance, strict=True)
        ]
        per_dimension = (log_weight[:, None] + log_each).logsumexp(-2).sum(-1)
        packaged = prior().log_prob(z)
    torch.testing.assert_close(by_equation.exp(), sum(whole))
    torch.testing.assert_close(packaged, by_equation)
    assert quadrature(by_equation.exp(), line, line) == pytest.approx(1, abs=1e-9)
    # The wrong order is a density too, which is why it has to be looked for.
    assert quadrature(per_dimension.exp(), line, line) == pytest.approx(1, abs=1e-9)
    assert (per_dimension.exp() - by_equation.exp()).abs().max() > by_equation.exp().max() / 10


def test_eq_change_of_variables() -> None:
    torch.manual_seed(0)
    u = torch.randn(5, 2).double()
    p_u = Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)

    def bend(u: Tensor) -> Tensor:
        return torch.stack([u[..., 0], 1 + u[..., 1] * u[..., 0].exp()], -1)

    z = bend(u)
    jacobian = torch.stack([torch.autograd.functional.jacobian(bend, row) for row in u])
    by_equation = p_u.log_prob(u) - jacobian.det().abs().log()
    # z1 is standard normal and z2, given z1, is normal with standard deviation exp(z1).
    exact = Normal(0.0, 1.0).log_prob(z[:, 0]) + Normal(1.0, z[:, 0].exp()).log_prob(z[:, 1])
    torch.testing.assert_close(by_equation, exact)


def test_the_package_changes_variables_the_same_way() -> None:
    torch.manual_seed(0)
    base = Independent(Normal(torch.zeros(3, 2).double(), 1.0), 1)
    z, log_q = rsample_and_log_prob(TransformedDistribution(base, [ExpTransform()]), (4,))
    assert log_q.shape == (4, 3)
    torch.testing.assert_close(log_q, LogNormal(0.0, 1.0).log_prob(z).sum(-1))


# --- chapter 1 --------------------------------------------------------------------------------


def _oracle(width: float = 1.0) -> tuple[Tensor, ...]:
    """A linear-Gaussian model in float64: x, log p(x), W, b, scale, posterior mean and scale."""
    torch.manual_seed(0)
    x_size, z_size, scale = 6, 2, 0.3
    basis = torch.linalg.qr(torch.randn(x_size, z_size, dtype=torch.float64))[0]
    weight = basis * torch.tensor([1.5, 0.6], dtype=torch.float64)
    bias = torch.randn(x_size, dtype=torch.float64)
    covariance = weight @ weight.T + scale**2 * torch.eye(x_size, dtype=torch.float64)
    p_x = MultivariateNormal(bias, covariance)
    x = p_x.sample((20,))
    precision = weight.T @ weight + scale**2 * torch.eye(z_size, dtype=torch.float64)
    mean = (x - bias) @ weight @ precision.inverse()
    posterior_scale = (width * scale * precision.diagonal().rsqrt()).expand_as(mean)
    return (
        x,
        p_x.log_prob(x),
        weight,
        bias,
        torch.tensor(scale, dtype=torch.float64),
        mean,
        posterior_scale,
    )


def _log_joint(z: Tensor, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    return log_prior + Normal(z @ weight.T + bias, scale).log_prob(x).sum(-1)


def _grid(half: float = 7.0, steps: int = 701) -> tuple[Tensor, float]:
    """Points of a plane, `(steps², 2)`, and the logarithm of each one's share of the area."""
    line = torch.linspace(-half, half, steps, dtype=torch.float64)
    return torch.cartesian_prod(line, line), 2 * math.log(float(line[1] - line[0]))


def _independent(loc: Tensor, scale: Tensor) -> Independent:
    return Independent(Normal(loc, scale), 1)


def test_eq_marginal() -> None:
    x, log_p, weight, bias, scale, *_ = _oracle()
    grid, log_area = _grid()
    for row, exact in zip(x[:3], log_p[:3], strict=True):
        quadrature = _log_joint(grid, row, weight, bias, scale).logsumexp(0) + log_area
        assert abs(float(quadrature - exact)) < 1e-8


def test_eq_maximum_likelihood() -> None:
    # In the linear model with known noise the best weights have a closed form: the leading
    # eigenvectors of the data's covariance, and its eigenvalues less the noise.
    x, _, _, _, scale, *_ = _oracle()
    values, vectors = torch.linalg.eigh(x.T.cov(correction=0))
    best = vectors[:, -2:] * (values[-2:] - scale**2).sqrt(), x.mean(0)

    def log_likelihood(weight: Tensor, bias: Tensor) -> Tensor:
        covariance = weight @ weight.T + scale**2 * torch.eye(6, dtype=torch.float64)
        return MultivariateNormal(bias, covariance).log_prob(x).sum()

    theta = [each.clone().requires_grad_() for each in best]
    for slope in torch.autograd.grad(log_likelihood(*theta), theta):
        torch.testing.assert_close(slope, torch.zeros_like(slope))
    top = log_likelihood(*best)
    for _ in range(20):
        weight, bias = (each + 0.1 * torch.randn_like(each) for each in best)
        assert log_likelihood(weight, bias) < top


def test_eq_ppca() -> None:
    _, _, weight, bias, scale, *_ = _oracle()
    z = torch.randn(400_000, 2, dtype=torch.float64)
    x = z @ weight.T + bias + scale * torch.randn(400_000, 6, dtype=torch.float64)
    covariance = weight @ weight.T + scale**2 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(x.mean(0), bias, atol=0.01, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.02, rtol=0)


def test_the_posterior_of_the_linear_model() -> None:
    x, log_p, weight, bias, scale, mean, posterior_scale = _oracle()
    z = torch.randn(50, len(x), 2, dtype=torch.float64)
    by_bayes = _log_joint(z, x, weight, bias, scale) - log_p
    closed = _independent(mean, posterior_scale).log_prob(z)
    torch.testing.assert_close(closed, by_bayes, atol=1e-9, rtol=1e-9)


def test_eq_posterior() -> None:
    x, log_p, weight, bias, scale, *_ = _oracle()
    grid, log_area = _grid()
    log_posterior = _log_joint(grid, x[0], weight, bias, scale) - log_p[0]
    assert abs(float(log_posterior.logsumexp(0) + log_area)) < 1e-8


def test_eq_jensen() -> None:
    x, log_p, weight, bias, scale, mean, posterior_scale = _oracle(width=2.0)
    q = _independent(mean + 0.1, posterior_scale)
    z = q.sample((100_000,))
    log_weight = _log_joint(z, x, weight, bias, scale) - q.log_prob(z)
    # The average weight is p(x): the equality of the line; the average logarithm is below it.
    error = log_weight.logsumexp(0) - math.log(len(z)) - log_p
    assert float(error.abs().max()) < 0.02
    assert bool((log_weight.mean(0) < log_p - 0.1).all())


def test_eq_kl_identity() -> None:
    x, log_p, weight, bias, scale, mean, posterior_scale = _oracle(width=1.7)
    *_, exact_scale = _oracle()
    q = _independent(mean + 0.2, posterior_scale)
    grid, log_area = _grid()
    for n in range(3):
        one = _independent(mean[n] + 0.2, posterior_scale[n])
        log_q = one.log_prob(grid)
        share = (log_q + log_area).exp()
        elbo = (share * (_log_joint(grid, x[n], weight, bias, scale) - log_q)).sum()
        gap = kl_divergence(q, _independent(mean, exact_scale))[n]
        assert abs(float(elbo + gap - log_p[n])) < 1e-6


def test_eq_elbo() -> None:
    x, _, weight, bias, scale, mean, posterior_scale = _oracle(width=1.3)
    standard = _independent(torch.zeros_like(mean), torch.ones_like(mean))
    q = _independent(mean, posterior_scale)
    spread = (weight**2 @ posterior_scale[0] ** 2).sum() / (2 * scale**2)
    reconstruction = Normal(mean @ weight.T + bias, scale).log_prob(x).sum(-1) - spread
    grid, log_area = _grid()
    log_q = _independent(mean[0], posterior_scale[0]).log_prob(grid)
    by_definition = (
        (log_q + log_area).exp() * (_log_joint(grid, x[0], weight, bias, scale) - log_q)
    ).sum()
    in_two_terms = (reconstruction - kl_divergence(q, standard))[0]
    assert abs(float(by_definition - in_two_terms)) < 1e-6


def test_eq_objective() -> None:
    x, log_p, weight, bias, scale, mean, exact_scale = _oracle()
    weight = weight.clone().requires_grad_()
    posterior = _independent(mean, exact_scale)
    standard = _independent(torch.zeros_like(mean), torch.ones_like(mean))

    def objective(q: Independent) -> Tensor:
        spread = (weight**2 @ q.variance[0]).sum() / (2 * scale**2)
        reconstruction = Normal(mean @ weight.T + bias, scale).log_prob(x).sum(-1) - spread
        return (reconstruction - kl_divergence(q, standard)).sum()

    for width in (1.0, 1.7):
        q = _independent(mean, width * exact_scale)
        by_equation = log_p.sum() - kl_divergence(q, posterior).sum()
        torch.testing.assert_close(objective(q).detach(), by_equation)
    # Where q is the posterior the bound touches the likelihood: both have one slope.
    covariance = weight @ weight.T + scale**2 * torch.eye(6, dtype=torch.float64)
    log_likelihood = MultivariateNormal(bias, covariance).log_prob(x).sum()
    [wanted] = torch.autograd.grad(log_likelihood, weight)
    [slope] = torch.autograd.grad(objective(posterior), weight)
    torch.testing.assert_close(slope, wanted)


def test_the_encoder_gives_means_and_log_scales() -> None:
    output = torch.randn(7, 6, dtype=torch.float64)
    loc, log_scale = output.chunk(2, -1)
    z = torch.randn(7, 3, dtype=torch.float64)
    full = MultivariateNormal(loc, torch.diag_embed(log_scale.exp() ** 2))
    posterior = GaussianPosterior(torch.nn.Identity())(output)
    torch.testing.assert_close(posterior.log_prob(z), full.log_prob(z))


def test_eq_gaussian_kl() -> None:
    loc, log_scale = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    closed = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
    oracle = kl_divergence(
        MultivariateNormal(loc, torch.diag_embed((2 * log_scale).exp())),
        MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double()),
    )
    torch.testing.assert_close(closed, oracle)


def test_eq_reparametrisation() -> None:
    loc = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([0.2, -0.5], dtype=torch.float64, requires_grad=True)
    noise = torch.randn(400_000, 2, dtype=torch.float64)
    z = loc + log_scale.exp() * noise
    (z**2).mean(0).sum().backward()
    # E z² = μ² + σ², whose gradients are 2 μ and 2 σ².
    assert loc.grad is not None and log_scale.grad is not None
    torch.testing.assert_close(loc.grad, 2 * loc.detach(), atol=0.01, rtol=0)
    torch.testing.assert_close(
        log_scale.grad, 2 * (2 * log_scale.detach()).exp(), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
def test_eq_path(width: float) -> None:
    x, _, weight, bias, scale, exact_mean, posterior_scale = _oracle(width)
    shifted = exact_mean + (0.1 if width != 1 else 0)
    mean = shifted.repeat(20_000, 1, 1).requires_grad_()
    log_scale = posterior_scale.log().repeat(20_000, 1, 1).requires_grad_()
    z = mean + log_scale.exp() * torch.randn_like(mean)
    held = _independent(mean.detach(), log_scale.detach().exp())
    log_weight = _log_joint(z, x, weight, bias, scale) - held.log_prob(z)
    path = torch.autograd.grad(log_weight.sum(), (mean, log_scale))
    # The ELBO has a closed form here, and so has its gradient.
    q_mean, q_log_scale = shifted.clone().requires_grad_(), posterior_scale.log().requires_grad_()
    q = _independent(q_mean, q_log_scale.exp())
    spread = (q.variance @ (weight**2).sum(0)) / (2 * scale**2)
    standard = _independent(torch.zeros_like(shifted), torch.ones_like(shifted))
    reconstruction = Normal(q_mean @ weight.T + bias, scale).log_prob(x).sum(-1) - spread
    elbo = reconstruction - kl_divergence(q, standard)
    for one, wanted in zip(
        path, torch.autograd.grad(elbo.sum(), (q_mean, q_log_scale)), strict=True
    ):
        error = (one.mean(0) - wanted) / (one.std(0) / 20_000**0.5 + 1e-9)
        assert float(error.abs().max()) < 5
        if width == 1:  # there each sample gives zero by itself
            assert float(one.abs().max()) < 1e-9


def test_eq_importance() -> None:
    x, log_p, weight, bias, scale, mean, posterior_scale = _oracle(width=1.5)
    q = _independent(mean, posterior_scale)
    z = q.sample((5000,))
    log_weight = _log_joint(z, x, weight, bias, scale) - q.log_prob(z)
    assert abs(float((log_weight.logsumexp(0) - math.log(5000) - log_p).mean())) < 0.005


def test_eq_active_units() -> None:
    x = torch.randn(20_000, 3)
    slopes = torch.tensor([1.0, 0.11, 0.09])  # variances 1, 0.0121 and 0.0081

    class Means(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x * slopes, torch.zeros_like(x)], dim=-1)

    likelihood = GaussianLikelihood(torch.nn.Identity(), features=3)
    vae = VAE(StandardNormal(3), GaussianPosterior(Means()), likelihood)
    assert active_units(vae, x).tolist() == [True, True, False]


def test_eq_beta() -> None:
    vae = VAE(
        StandardNormal(2),
        GaussianPosterior(torch.nn.Linear(3, 4)),
        GaussianLikelihood(torch.nn.Linear(2, 3), features=3),
    )
    x = torch.randn(50, 3)
    torch.manual_seed(0)
    terms = vae.elbo(x)
    torch.manual_seed(0)
    loss = vae.loss(x, beta=2.5)
    torch.testing.assert_close(loss, -terms.reconstruction.mean() + 2.5 * terms.kl.mean())


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.0])
def test_the_best_q_for_a_weight_has_the_likelihood_to_the_power_of_one_over_it(
    beta: float,
) -> None:
    z = torch.linspace(-6, 6, 2001).double()
    log_p = Normal(0.0, 1.0).log_prob(z)
    log_likelihood = Normal(2 * z.tanh(), 0.5).log_prob(torch.tensor(0.8).double())

    def loss(log_q: Tensor) -> float:
        log_q = log_q - torch.trapezoid(log_q.exp(), z).log()
        parts = -log_likelihood + beta * (log_q - log_p)
        return torch.trapezoid(log_q.exp() * parts, z).item()

    best = log_likelihood / beta + log_p
    for bent in (0.1 * z, -0.1 * z, 0.1 * z.sin(), 0.05 * z**2, -0.05 * z**2):
        assert loss(best + bent) > loss(best) + 1e-6


def test_eq_aggregated() -> None:
    posterior = GaussianPosterior(torch.nn.Linear(3, 4)).double()
    likelihood = GaussianLikelihood(torch.nn.Linear(2, 3), features=3).double()
    vae = VAE(StandardNormal(2).double(), posterior, likelihood)
    x, z = torch.randn(40, 3).double(), torch.randn(10, 2).double()
    one_by_one = torch.stack([posterior(row[None]).log_prob(z).exp() for row in x]).mean(0)
    torch.testing.assert_close(aggregated_posterior(vae, x).log_prob(z).exp(), one_by_one)


def test_eq_prior_gap() -> None:
    # q(z) = N(1, 0.5²) in one dimension: every gain is known, the best one is the KL divergence.
    q, p = Normal(1.0, 0.5), Normal(0.0, 1.0)
    kl = float(kl_divergence(q, p))
    z = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    step, density = float(z[1] - z[0]), q.log_prob(z).exp()

    def gain(other: Normal) -> float:
        return float((density * (other.log_prob(z) - p.log_prob(z))).sum()) * step

    assert abs(gain(q) - kl) < 1e-6
    assert all(gain(Normal(loc, 0.6)) < kl for loc in (0.5, 1.0, 1.5))


# --- chapter 2 --------------------------------------------------------------------------------


def _codes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four one-dimensional posteriors: points z, log q(z | xₙ), log q(z), and log p(z)."""
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    loc = torch.tensor([-2.0, -1.5, 0.5, 3.0], dtype=torch.float64)
    scale = torch.tensor([0.4, 0.5, 0.3, 0.6], dtype=torch.float64)
    each = Normal(loc[:, None], scale[:, None]).log_prob(z)
    return z, each, each.logsumexp(0) - math.log(4), Normal(0.0, 1.0).log_prob(z)


def _integral(log_density: Tensor, value: Tensor, z: Tensor) -> Tensor:
    return (log_density.exp() * value).sum(-1) * (z[1] - z[0])


def test_eq_surgery() -> None:
    z, each, aggregated, prior = _codes()
    kl = _integral(each, each - prior, z).mean()
    information = _integral(each, each - aggregated, z).mean()
    marginal = _integral(aggregated, aggregated - prior, z)
    assert abs(float(kl - information - marginal)) < 1e-9

    posterior = GaussianPosterior(torch.nn.Linear(3, 4))
    vae = VAE(StandardNormal(2), posterior, GaussianLikelihood(torch.nn.Linear(2, 3), 3))
    x = torch.randn(50, 3)
    torch.manual_seed(0)
    parts = elbo_surgery(vae, x, num_samples=400)
    torch.manual_seed(0)
    terms = vae.elbo(x, num_samples=400)  # at the same latents
    base = posterior(x).base_dist
    exact = kl_divergence(base, Normal(torch.zeros_like(base.loc), 1.0)).sum(-1).mean().detach()
    assert abs(parts.mutual_information + parts.marginal_kl - float(exact)) < 0.05
    assert abs(parts.reconstruction - terms.reconstruction.mean().item()) < 1e-3
    kl_at_samples = parts.mutual_information + parts.marginal_kl
    assert abs(kl_at_samples - terms.kl.mean().item()) < 1e-3


def test_eq_mi_bound() -> None:
    z, each, aggregated, _ = _codes()
    information = float(_integral(each, each - aggregated, z).mean())
    assert 0 < information < math.log(4)
    apart = Normal(torch.tensor([-9.0, -3.0, 3.0, 9.0])[:, None].double(), 0.1).log_prob(z)
    mixture = apart.logsumexp(0) - math.log(4)
    assert abs(float(_integral(apart, apart - mixture, z).mean()) - math.log(4)) < 1e-6


def test_eq_optimal_prior() -> None:
    z, each, aggregated, prior = _codes()
    best = float(_integral(aggregated, aggregated, z))
    others = [prior, each[0], Normal(0.0, 2.0).log_prob(z), each[:3].logsumexp(0) - math.log(3)]
    assert all(float(_integral(aggregated, other, z)) < best for other in others)
    # The average over n of E_q(z|x_n) is the average over q(z).
    assert abs(float(_integral(each, prior, z).mean() - _integral(aggregated, prior, z))) < 1e-9


def test_eq_vampprior() -> None:
    posterior = GaussianPosterior(torch.nn.Linear(3, 4)).double()
    start = torch.rand(5, 3, dtype=torch.float64)
    prior = VampPrior(posterior, start, logits=torch.randn(5, dtype=torch.float64))
    z = torch.randn(20, 2, dtype=torch.float64)
    components = posterior(prior.pseudo_inputs)
    density = sum(
        weight * components.log_prob(z[:, None].expand(20, 5, 2))[:, k].exp()
        for k, weight in enumerate(prior.logits.softmax(0))
    )
    torch.testing.assert_close(prior().log_prob(z).exp(), density)


def test_eq_mixture_product() -> None:
    z = torch.randn(6, 4, dtype=torch.float64)
    loc, scale = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64) + 0.1
    square = (((z[:, None] - loc) / scale) ** 2).sum(-1)
    product = (z**2) @ (scale**-2).T - 2 * z @ (loc / scale**2).T + ((loc / scale) ** 2).sum(-1)
    torch.testing.assert_close(product, square)


# --- chapter 3 --------------------------------------------------------------------------------


class _TwoLevels:
    """A linear-Gaussian model with one number a level, in float64; every part is known."""

    def __init__(self, width: float = 1.0) -> None:
        torch.manual_seed(0)
        self.gain, self.lower, self.noise = 0.8, 0.6, 0.5
        self.w2, self.w1, self.bias = torch.randn(3, 3, dtype=torch.float64)
        direct = self.w2 + self.gain * self.w1
        eye = torch.eye(3, dtype=torch.float64)
        self.covariance = (
            direct.outer(direct) + self.lower**2 * self.w1.outer(self.w1) + self.noise**2 * eye
        )
        marginal = MultivariateNormal(self.bias, self.covariance)
        self.x = marginal.sample((5,))
        self.log_p = marginal.log_prob(self.x)
        project = torch.linalg.solve(self.covariance, direct)
        self.top_mean = ((self.x - self.bias) @ project)[:, None]
        self.top_scale = width * (1 - direct @ project).sqrt()
        self.v = 1 / (1 / self.lower**2 + self.w1 @ self.w1 / self.noise**2)
        self.width = width
        self.p2 = _independent(torch.zeros(1).double(), torch.ones(1).double())

    def p1(self, z2: Tensor) -> Independent:
        return _independent(self.gain * z2, torch.full_like(z2, self.lower))

    def p_x(self, z2: Tensor, z1: Tensor) -> Independent:
        return Independent(Normal(z2 * self.w2 + z1 * self.w1 + self.bias, self.noise), 1)

    def q2(self) -> Independent:
        return _independent(self.top_mean, self.top_scale.expand_as(self.top_mean))

    def q1(self, z2: Tensor) -> Independent:
        by_picture = (self.x - self.bias - z2 * self.w2) @ self.w1 / self.noise**2
        mean = self.v * (self.gain * z2 / self.lower**2 + by_picture[..., None])
        return _independent(mean, (self.width * self.v.sqrt()).expand_as(mean))

    def log_weight(self, z2: Tensor, z1: Tensor) -> Tensor:
        """log p(x | z) + log p(z) − log q(z | x), at z2 and z1 `(..., 5, 1)`."""
        log_p = self.p2.log_prob(z2) + self.p1(z2).log_prob(z1)
        log_q = self.q2().log_prob(z2) + self.q1(z2).log_prob(z1)
        return self.p_x(z2, z1).log_prob(self.x) + log_p - log_q

    def grid(self, half: float = 7.0, steps: int = 561) -> tuple[Tensor, Tensor, Tensor]:
        """z2 and z1 `(steps², 1, 1)`, and the line that both run over."""
        line = torch.linspace(-half, half, steps, dtype=torch.float64)
        z2, z1 = torch.cartesian_prod(line, line)[:, None, :].split(1, dim=-1)
        return z2, z1, line

    def average(self, log_density: Tensor, values: Tensor, line: Tensor) -> Tensor:
        """The average over a density on the grid of values there, `(steps², 5)` to `(5,)`."""
        area = float(line[1] - line[0]) ** 2
        return (log_density.exp() * values).sum(0) * area


class _Function(torch.nn.Module):
    """A conditional made from a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *context: Tensor) -> object:
        return self.function(*context)


def _linear_gaussian(z: Tensor) -> Independent:
    return _independent(z @ torch.tensor([[0.8, 0.1], [-0.3, 0.5]]).double() + 1, z.exp())


def test_eq_hierarchical_prior() -> None:
    top = GaussianMixture(2, 3).double()
    prior = HierarchicalPrior(top, _Function(_linear_gaussian))()
    z2, z1 = torch.randn(7, 2).double(), torch.randn(7, 2).double()
    by_equation = top().log_prob(z2) + _linear_gaussian(z2).log_prob(z1)
    torch.testing.assert_close(prior.log_prob(torch.cat([z2, z1], -1)), by_equation)
    # Summed up over both levels, the density is one.
    model = _TwoLevels()
    z2, z1, line = model.grid()
    log_prior = model.p2.log_prob(z2) + model.p1(z2).log_prob(z1)
    assert float(model.average(log_prior, torch.ones(1), line)) == pytest.approx(1, abs=1e-9)


def test_eq_two_level_marginal() -> None:
    model = _TwoLevels()
    z2, z1, line = model.grid()
    log_prior = model.p2.log_prob(z2) + model.p1(z2).log_prob(z1)
    likelihood = model.p_x(z2, z1).log_prob(model.x).exp()
    by_quadrature = model.average(log_prior, likelihood, line).log()
    torch.testing.assert_close(by_quadrature, model.log_p, atol=1e-8, rtol=0)


def test_eq_hierarchical_posterior() -> None:
    top = GaussianPosterior(torch.nn.Linear(3, 4)).double()

    class Conditional(torch.nn.Module):
        def forward(self, x: Tensor, z2: Tensor) -> Independent:
            return _independent(z2 * x[..., :2] + x[..., 1:], torch.ones_like(z2))

    q = HierarchicalPosterior(top, Conditional())(x := torch.randn(5, 3).double())
    z2, z1 = torch.randn(4, 5, 2).double(), torch.randn(4, 5, 2).double()
    by_equation = top(x).log_prob(z2) + Conditional()(x, z2).log_prob(z1)
    torch.testing.assert_close(q.log_prob(torch.cat([z2, z1], -1)), by_equation)


def test_eq_two_level_posterior() -> None:
    model = _TwoLevels()
    z2, z1 = 3 * torch.randn(2, 50, 5, 1).double()
    by_bayes = model.log_weight(z2, z1)
    torch.testing.assert_close(by_bayes, model.log_p.expand(50, 5), atol=1e-9, rtol=1e-9)


def test_eq_hierarchical_elbo() -> None:
    model = _TwoLevels(width=1.4)
    z2, z1, line = model.grid()
    log_q = model.q2().log_prob(z2) + model.q1(z2).log_prob(z1)
    log_prior = model.p2.log_prob(z2) + model.p1(z2).log_prob(z1)
    by_definition = model.average(log_q, model.log_weight(z2, z1), line)
    reconstruction = model.average(log_q, model.p_x(z2, z1).log_prob(model.x), line)
    both = model.average(log_q, log_q - log_prior, line)
    torch.testing.assert_close(reconstruction - both, by_definition, atol=1e-6, rtol=0)
    assert bool((by_definition < model.log_p - 0.05).all())


def test_eq_kl_levels() -> None:
    model = _TwoLevels(width=1.4)
    z2, z1, line = model.grid()
    log_q = model.q2().log_prob(z2) + model.q1(z2).log_prob(z1)
    log_prior = model.p2.log_prob(z2) + model.p1(z2).log_prob(z1)
    both = model.average(log_q, log_q - log_prior, line)
    top = kl_divergence(model.q2(), _independent(0 * model.top_mean, 1 + 0 * model.top_mean))
    at = line[:, None, None].expand(-1, 5, 1)
    given = kl_divergence(model.q1(at), model.p1(at))
    weight = model.q2().log_prob(at).exp() * float(line[1] - line[0])
    lower = (weight * given).sum(0)
    torch.testing.assert_close(top + lower, both, atol=1e-6, rtol=0)
    # At a fresh z2 the lower level would cost something else.
    fresh = (model.p2.log_prob(at).exp() * float(line[1] - line[0]) * given).sum(0)
    assert bool(((lower - fresh).abs() > 0.05).all())


def test_eq_from_the_prior() -> None:
    model, exact = _TwoLevels(width=0.7), _TwoLevels()
    z2, z1, line = model.grid()
    log_drawn = model.q2().log_prob(z2) + model.p1(z2).log_prob(z1)
    value = model.average(log_drawn, model.log_weight(z2, z1), line)
    at = line[:, None, None].expand(-1, 5, 1)
    p1 = _independent(model.gain * at, torch.full_like(at, model.lower))
    excess = kl_divergence(p1, model.q1(at)) - kl_divergence(p1, exact.q1(at))
    weight = model.q2().log_prob(at).exp() * float(line[1] - line[0])
    by_equation = model.log_p - kl_divergence(model.q2(), exact.q2()) + (weight * excess).sum(0)
    torch.testing.assert_close(value, by_equation, atol=1e-6, rtol=0)
    assert bool((value > model.log_p + 0.1).all()), "it is no lower bound"


def test_eq_chain() -> None:
    first = _independent(torch.randn(5, 1).double(), torch.rand(5, 1).double() + 0.5)
    chain = Chain(first, lambda a: _independent(torch.cat([a, -a], -1), a.new_ones(2)), 3)
    z = chain.sample((4,))
    a, b = z[..., :1], z[..., 1:]
    by_equation = first.log_prob(a) + Normal(torch.cat([a, -a], -1), 1.0).log_prob(b).sum(-1)
    assert chain.event_shape == (3,)
    torch.testing.assert_close(chain.log_prob(z), by_equation)
    torch.testing.assert_close(sum(chain.log_prob_parts(z)), by_equation)


def test_eq_hierarchical_vampprior() -> None:
    torch.manual_seed(0)
    posterior = HierarchicalPosterior(
        GaussianPosterior(torch.nn.Linear(3, 4)).double(), _Function(lambda x, z2: z2)
    )
    pseudo, logits = torch.rand(6, 3).double(), torch.randn(6).double()
    top = VampPrior(posterior.top, pseudo, logits=logits, bounds=None)
    prior = HierarchicalPrior(top, _Function(_linear_gaussian))()
    z2, z1 = torch.randn(7, 2).double(), torch.randn(7, 2).double()
    each = torch.stack([posterior.top(row[None]).log_prob(z2).exp() for row in pseudo])
    by_equation = (logits.softmax(0)[:, None] * each).sum(0).log()
    above, _ = prior.log_prob_parts(torch.cat([z2, z1], -1))
    torch.testing.assert_close(above, by_equation)


# --- chapter 4 --------------------------------------------------------------------------------


def bent(u: Tensor) -> Tensor:
    """A map of the line, three times as steep in the middle as far out."""
    return u + (2 * u).tanh()


def unbent(z: Tensor) -> Tensor:
    """Its inverse, by bisection."""
    low, high = z - 2, z + 2
    for _ in range(80):
        middle = (low + high) / 2
        below = bent(middle) < z
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def test_eq_flow_prior() -> None:
    z = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    u = unbent(z)
    slope = 1 + 2 / (2 * u).cosh() ** 2
    log_p = Normal(0.0, 1.0).log_prob(u) - slope.log()
    assert quadrature(log_p.exp(), z) == pytest.approx(1, abs=1e-9)
    # P(z < 1) = P(u < f⁻¹(1)).
    below = z <= 1
    probability = quadrature(log_p[below].exp(), z[below])
    expected = Normal(0.0, 1.0).cdf(unbent(torch.tensor(1.0).double())).item()
    assert probability == pytest.approx(expected, abs=1e-3)
    # In two dimensions, with autograd's determinant: the package's flow integrates to 1.
    flow = CouplingFlow(2, transforms=2, hidden=(8,)).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.4)
    line = torch.linspace(-9, 9, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    transform = flow.transform()
    with torch.no_grad():
        u = transform.inv(grid)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda u: transform.call_and_ladj(u)[0]))(u)
    log_p = Normal(0.0, 1.0).log_prob(u).sum(-1) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow().log_prob(grid), log_p, rtol=0, atol=1e-8)
    assert quadrature(log_p.exp().detach().reshape(301, 301), line, line) == pytest.approx(
        1, abs=1e-3
    )


def test_eq_coupling() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 6, dtype=torch.float64)

    def coupling(u: Tensor) -> Tensor:
        a, b = u[:2], u[2:]
        t, s = (a @ weight).sin().chunk(2)
        return torch.cat([a, t + s.exp() * b])

    u = torch.randn(5, dtype=torch.float64)
    jacobian = torch.func.jacrev(coupling)(u)
    log_scale = (u[:2] @ weight).sin()[3:]
    assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(
        log_scale.sum().item(), abs=1e-12
    )
    assert not jacobian[:2, 2:].any(), "block triangular"
    a, b = coupling(u)[:2], coupling(u)[2:]
    back = (b - (a @ weight).sin()[:3]) / log_scale.exp()
    torch.testing.assert_close(torch.cat([a, back]), u, rtol=0, atol=1e-12)


def test_eq_spline() -> None:
    u0, u1, z0, z1, slope0, slope1 = -0.4, 0.8, -1.0, 1.3, 0.6, 2.5
    sigma = (z1 - z0) / (u1 - u0)

    def g(u: Tensor) -> Tensor:
        xi = (u - u0) / (u1 - u0)
        top = sigma * xi**2 + slope0 * xi * (1 - xi)
        return z0 + (z1 - z0) * top / (sigma + (slope1 + slope0 - 2 * sigma) * xi * (1 - xi))

    ends = torch.tensor([u0, u1], dtype=torch.float64)
    torch.testing.assert_close(g(ends), torch.tensor([z0, z1], dtype=torch.float64))
    slopes = torch.func.vmap(torch.func.grad(g))(ends)
    torch.testing.assert_close(slopes, torch.tensor([slope0, slope1], dtype=torch.float64))
    u = torch.linspace(u0, u1, 101, dtype=torch.float64)
    assert (g(u).diff() > 0).all(), "increasing"
    # The package's spline has more knots; in this bin it is the same.
    corners = torch.tensor([[-2.0, u0, u1, 2.0], [-2.0, z0, z1, 2.0]], dtype=torch.float64)
    all_slopes = torch.tensor([1.0, slope0, slope1, 1.0], dtype=torch.float64)
    z, log_slope = rational_quadratic_spline(u, corners[..., None], all_slopes[:, None])
    torch.testing.assert_close(z, g(u), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope.exp(), torch.func.vmap(torch.func.grad(g))(u))


def test_eq_flow_kl() -> None:
    torch.manual_seed(0)
    flow = CouplingFlow(2, transforms=2, hidden=(8,)).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.4)
    loc, scale = torch.tensor([0.5, -0.3]).double(), torch.tensor([0.6, 0.9]).double()
    q = Independent(Normal(loc, scale), 1)
    z = q.sample((20_000,))
    with torch.no_grad():
        u, _ = flow.transform().inverse_and_ladj(z)
        _, ladj = flow.transform().call_and_ladj(u)
        kl = q.log_prob(z) - Normal(0.0, 1.0).log_prob(u).sum(-1) + ladj
    line = torch.linspace(-6, 6, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        density = q.log_prob(grid).exp() * (q.log_prob(grid) - flow().log_prob(grid))
    exact = quadrature(density.reshape(301, 301), line, line)
    assert kl.mean().item() == pytest.approx(exact, abs=4 * kl.std().item() / 20_000**0.5)


def test_eq_autoregressive() -> None:
    torch.manual_seed(0)
    net = MaskedNetwork(4, 0, (16,)).double()
    for p in net.parameters():
        torch.nn.init.normal_(p)
    u = torch.randn(4).double()
    with torch.no_grad():
        z, ladj = InverseAutoregressive(net(None)).call_and_ladj(u)
        for i in range(4):
            # What comes from i on is changed: the shift and the log-scale of i stay.
            changed = torch.cat([u[:i], 9 * torch.randn(4 - i).double()])
            shift, raw = net(None)(changed).chunk(2)
            log_scale = 2 * raw[i].tanh()
            torch.testing.assert_close(z[i], shift[i] + log_scale.exp() * u[i])
            ladj = ladj - log_scale
    assert ladj.item() == pytest.approx(0, abs=1e-12)


def test_eq_inside() -> None:
    torch.manual_seed(0)
    flow = AutoregressiveFlow(2, transforms=2, hidden=(8,)).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.2)
    loc, scale = torch.tensor([0.5, -0.3]).double(), torch.tensor([0.6, 0.9]).double()
    q, line = Independent(Normal(loc, scale), 1), torch.linspace(-12, 12, 801).double()
    u = torch.cartesian_prod(line, line)
    with torch.no_grad():
        z, ladj = flow.transform().call_and_ladj(u)
        density = (q.log_prob(z) + ladj).exp()
        drawn, _ = flow.transform().inverse_and_ladj(q.sample((20_000,)))
    assert quadrature(density.reshape(801, 801), line, line) == pytest.approx(1, abs=1e-5)
    mean = [quadrature((density * each).reshape(801, 801), line, line) for each in u.T]
    error = 4 * drawn.std(0).max().item() / 20_000**0.5
    assert drawn.mean(0).tolist() == pytest.approx(mean, abs=error)


def test_eq_energy_distance() -> None:
    # Of two densities on the line it is twice the integral of the squared difference of their
    # cumulative distribution functions (Székely and Rizzo, 2013).
    line = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    one, other = Normal(0.0, 1.0), Normal(1.0, 2.0)
    exact = 2 * quadrature((one.cdf(line) - other.cdf(line)) ** 2, line)
    torch.manual_seed(0)
    x, y = one.sample((3000, 1)), other.sample((3000, 1))
    assert energy_distance(x, y) == pytest.approx(exact, abs=0.04)
    assert energy_distance(x, one.sample((3000, 1))) == pytest.approx(0, abs=0.01)


# --- chapter 5 --------------------------------------------------------------------------------


def _bent_flow(context: int) -> CouplingFlow:
    """A flow over two dimensions with random weights, far from the identity."""
    torch.manual_seed(0)
    flow = CouplingFlow(2, context=context, transforms=3, hidden=(8,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, 0.2)
    return flow


def test_eq_grid_posterior() -> None:
    x, log_p, weight, bias, scale, mean, posterior_scale = _oracle()
    x, log_p, mean, posterior_scale = x[:4], log_p[:4], mean[:4], posterior_scale[:4]
    z, log_area = _grid(steps=351)
    joint = _log_joint(z[:, None], x, weight, bias, scale)
    log_p_x = joint.logsumexp(0) + log_area
    torch.testing.assert_close(log_p_x, log_p)
    exact = Normal(mean, posterior_scale).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close((joint - log_p_x).exp(), exact.exp())


def test_eq_flow_posterior() -> None:
    flow = _bent_flow(context=2)
    net = mlp(3, (8,), 4).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        q = FlowPosterior(net, flow)(x)
        z, log_q = rsample_and_log_prob(q, (5,))
        # The same sample by hand, with the log-determinant of autograd's Jacobian.
        mean, log_scale = net(x).chunk(2, -1)
        u, _ = flow.transform(mean).inverse_and_ladj(z)
    for s in range(5):
        for n in range(2):
            here = flow.transform(mean[n])
            jacobian = torch.autograd.functional.jacobian(here, u[s, n])
            torch.testing.assert_close(here(u[s, n]).detach(), z[s, n])
            log_u = Normal(mean[n], log_scale[n].exp()).log_prob(u[s, n]).sum()
            torch.testing.assert_close(log_q[s, n], log_u - torch.linalg.slogdet(jacobian)[1])
    # And it is a density: it integrates to one for each x.
    grid, log_area = _grid(half=15.0, steps=601)
    with torch.no_grad():
        whole = (q.log_prob(grid[:, None].expand(-1, 2, -1)).logsumexp(0) + log_area).exp()
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=0, atol=1e-3)


def test_eq_noisy_context() -> None:
    """The true slope against autograd; and without the extra term no density is left."""
    u, log_area = _grid(half=9.0, steps=601)
    u.requires_grad_()
    mean = torch.tensor([0.5, 1.0], dtype=torch.float64)

    def slopes(constant: bool) -> tuple[Tensor, Tensor]:
        """Of z₂ by autograd, and s."""
        second = mean[1].expand(len(u)) if constant else u[:, 1]
        s = (u[:, 0] + second).tanh()
        z2 = u[:, 1] * s.exp()
        return torch.autograd.grad(z2.sum(), u)[0][:, 1], s.detach()

    def integral(slope: Tensor, s: Tensor) -> float:
        claimed = Normal(mean, 1.0).log_prob(u.detach()).sum(-1) - s
        return float((claimed.exp() * slope.abs()).sum() * math.exp(log_area))

    slope, s = slopes(constant=False)
    by_formula = s.exp() * (1 + u[:, 1].detach() * (1 - s**2))
    torch.testing.assert_close(slope, by_formula)
    assert abs(integral(slope, s) - 1) > 0.1
    assert abs(integral(*slopes(constant=True)) - 1) < 1e-6


def test_eq_pull_back() -> None:
    """Both VAEs have the same evidence, the same ELBO and the same gap, on grids of their own."""
    x, log_p, weight, bias, scale, mean, posterior_scale = _oracle(width=1.5)
    x, log_p, mean, posterior_scale = x[:3], log_p[:3], mean[:3], posterior_scale[:3]
    f = _bent_flow(context=0).transform()
    with torch.no_grad():
        # A Gaussian around the place that f takes to the posterior's mean.
        base = Independent(Normal(f.inverse_and_ladj(mean)[0], posterior_scale), 1)
        q = Flow(base, f)
        u, log_area = _grid(half=10.0, steps=701)
        at_u, ladj = f.call_and_ladj(u)
        log_prior_u = Normal(0.0, 1.0).log_prob(at_u).sum(-1) + ladj
        likelihood_u = Normal(at_u @ weight.T + bias, scale).log_prob(x[:, None]).sum(-1).T
        joint_u = likelihood_u + log_prior_u[:, None]
        log_q_u = base.log_prob(u[:, None])
        elbo_u = (log_q_u.exp() * (joint_u - log_q_u)).sum(0) * math.exp(log_area)
        z, log_area_z = _grid(half=6.0, steps=601)
        joint_z = _log_joint(z[:, None], x, weight, bias, scale)
        log_q_z = q.log_prob(z[:, None].expand(-1, 3, -1))
        elbo_z = (log_q_z.exp() * (joint_z - log_q_z)).sum(0) * math.exp(log_area_z)
    # p_f is a density, and the other VAE has the evidence of the first.
    assert abs(float(log_prior_u.logsumexp(0) + log_area)) < 1e-3
    torch.testing.assert_close(joint_u.logsumexp(0) + log_area, log_p, rtol=0, atol=1e-3)
    torch.testing.assert_close(elbo_u, elbo_z, rtol=0, atol=1e-3)
    assert (log_p - elbo_z > 0.01).all()


def test_eq_iwae() -> None:
    # x ~ N(z, 1) under z ~ N(0, 1), at x = 1, for a q that is a little off.
    torch.manual_seed(0)
    q, log_p_x = Normal(0.8, 0.9), Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0))
    bounds = []
    for samples in (1, 2, 8, 64):
        z = q.sample((samples, 100_000))
        log_w = Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(torch.tensor(1.0))
        log_w = log_w - q.log_prob(z)
        bounds.append((log_w.logsumexp(0) - math.log(samples)).mean())
    elbo = log_p_x - kl_divergence(q, Normal(0.5, 0.5**0.5))
    assert bounds[0].item() == pytest.approx(elbo.item(), abs=0.01)
    assert bounds == sorted(bounds)
    assert bounds[-1].item() == pytest.approx(log_p_x.item(), abs=0.005)


def test_eq_dreg() -> None:
    # Both lines, at K = 2, against the gradient of the bound itself on a grid of both noises.
    x, line = torch.tensor(1.0).double(), torch.linspace(-8, 8, 401).double()
    eps = torch.stack(torch.meshgrid(line, line, indexing="ij"))
    density = Normal(0.0, 1.0).log_prob(eps).sum(0).exp()
    mean, prior_mean = (torch.tensor(v).double().requires_grad_() for v in (0.8, 0.1))

    def log_weights(z: Tensor, mean: Tensor, prior_mean: Tensor) -> Tensor:
        log_p = Normal(prior_mean, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(x)
        return log_p - Normal(mean, 0.9).log_prob(z)

    def average(values: Tensor) -> Tensor:
        return torch.trapezoid(torch.trapezoid(density * values, line, dim=-1), line, dim=-1)

    log_w = log_weights(mean + 0.9 * eps, mean, prior_mean)
    bound = average(log_w.logsumexp(0) - math.log(2))
    of_mean, of_prior = torch.autograd.grad(bound, (mean, prior_mean))
    z = (mean + 0.9 * eps).detach().requires_grad_()
    log_w = log_weights(z, mean.detach(), prior_mean.detach())
    (slope,) = torch.autograd.grad(log_w.sum(), z)
    share = log_w.detach().softmax(0)
    torch.testing.assert_close(average((share**2 * slope).sum(0)), of_mean)
    score = z.detach() - prior_mean.detach()
    torch.testing.assert_close(average((share * score).sum(0)), of_prior)


# --- chapter 6 --------------------------------------------------------------------------------


def test_eq_refinement() -> None:
    # Against the gradient of U by central differences, with a reward and away from the start.
    torch.manual_seed(0)
    flow = CouplingFlow(3, transforms=2).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    prior, lr, anchor, h = flow(), 1e-3, 0.3, 1e-5
    start = torch.randn(5, 3, dtype=torch.float64)

    def reward(z: Tensor) -> Tensor:
        return (z**3).sum(-1).sin()

    def objective(z: Tensor) -> Tensor:
        return prior.log_prob(z) + reward(z) - anchor * (z - start).square().sum(-1)

    z = start
    with torch.no_grad():
        for _ in range(3):
            unit = torch.eye(3, dtype=torch.float64)[:, None] * h
            slope = torch.stack([objective(z + e) - objective(z - e) for e in unit], dim=-1)
            z = z + lr * slope / (2 * h)
    arguments = {"lr": lr, "anchor": anchor}
    by_package = refine(start, prior.log_prob, reward, steps=3, **arguments)
    torch.testing.assert_close(by_package, z, atol=1e-9, rtol=0)
    alone = refine(start[2:3], prior.log_prob, reward, steps=3, **arguments)
    torch.testing.assert_close(alone, by_package[2:3])


def test_eq_norm() -> None:
    for features in (1, 2, 16, 40):
        half = features / 2
        mean = math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half))
        deviation = math.sqrt(features - mean**2)
        # The density of the norm: that of N(0, I) times the surface of a sphere.
        radius = torch.linspace(0, 15, 30_001, dtype=torch.float64)
        surface = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        log_p = Normal(0.0, 1.0).log_prob(radius) + (features - 1) * (
            radius.log() - 0.5 * math.log(2 * math.pi)
        )
        if features == 1:
            log_p = Normal(0.0, 1.0).log_prob(radius)
        density = (log_p + surface).exp()
        # The density of the norm integrates to one.
        moments = [torch.trapezoid(density * radius**k, radius).item() for k in range(3)]
        assert moments[:2] == pytest.approx([1, mean], abs=1e-6)
        assert moments[2] - moments[1] ** 2 == pytest.approx(deviation**2, abs=1e-6)
        if features > 10:
            assert mean == pytest.approx(features**0.5, rel=0.02)
            assert deviation == pytest.approx(0.5**0.5, rel=0.02)
        if features < 3:
            assert mean == pytest.approx((math.pi / 2) ** (features - 1.5))


@pytest.mark.parametrize("anchor", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("steps", [0, 1, 7, 300])
def test_eq_shrink(anchor: float, steps: int) -> None:
    torch.manual_seed(0)
    start, lr = torch.randn(6, 4, dtype=torch.float64), 0.1
    rest = 2 * anchor / (1 + 2 * anchor) * start
    by_equation = rest + (1 - lr * (1 + 2 * anchor)) ** steps * (start - rest)
    prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    z = refine(start, prior.log_prob, steps=steps, lr=lr, anchor=anchor)
    torch.testing.assert_close(z, by_equation)
    if steps == 300:
        torch.testing.assert_close(z, rest, atol=1e-6, rtol=0)


@pytest.mark.parametrize("anchor", [0.1, 1.0, 10.0])
def test_eq_trust_region(anchor: float) -> None:
    torch.manual_seed(0)
    prior = MultivariateNormal(
        torch.zeros(2).double(), torch.diag(torch.tensor([1, 0.01])).double()
    )
    start = prior.sample((50,))

    def reward(z: Tensor) -> Tensor:
        return 3 * (2 * z[:, 0]).sin()

    trace = refine_with_trace(start, prior.log_prob, reward, steps=30, lr=0.5, anchor=anchor).trace
    gained = trace.log_prob + trace.reward - trace.log_prob[0] - trace.reward[0]
    assert (anchor * trace.distance**2 <= gained + 1e-9).all()
    assert (trace.distance[-1] > 0.01).all()
    # Under N(0, 1) at rest both sides are known: the gain is (z0² − z∗²) / 2.
    share = 2 * anchor / (1 + 2 * anchor)
    assert anchor * (1 - share) ** 2 <= (1 - share**2) / 2


def test_eq_langevin() -> None:
    # On a grid: the move's transition density leaves exp(U / T) alone, up to an error that
    # halves with the step.
    line = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    spacing, temperature = float(line[1] - line[0]), 0.7
    potential = -0.25 * line**4 + 0.5 * line**2 + 0.3 * line
    slope = -(line**3) + line + 0.3
    target = (potential / temperature).exp()
    target = target / (target.sum() * spacing)
    errors = []
    for lr in (0.04, 0.02, 0.01):
        move = Normal(line + lr * slope, math.sqrt(2 * lr * temperature))
        transition = move.log_prob(line[:, None]).exp()  # to a row, from a column
        density = target
        for _ in range(round(4 / lr)):
            density = transition @ density * spacing
        errors.append(((density - target).abs().sum() * spacing).item())
    assert errors[2] < 0.03
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.2)


def test_refine_takes_the_langevin_move() -> None:
    prior, lr, temperature, anchor = Normal(0.0, 1.0), 0.2, 0.7, 0.3
    start = torch.tensor([[0.4], [-1.1]], dtype=torch.float64)
    torch.manual_seed(5)
    z = refine(
        start, lambda z: prior.log_prob(z).sum(-1), steps=2, lr=lr, anchor=anchor,
        temperature=temperature,
    )  # fmt: skip
    torch.manual_seed(5)
    by_hand = start
    for _ in range(2):
        gradient = -by_hand - 2 * anchor * (by_hand - start)
        noise = torch.randn_like(by_hand)
        by_hand = by_hand + lr * gradient + math.sqrt(2 * lr * temperature) * noise
    torch.testing.assert_close(z, by_hand)


@pytest.mark.parametrize("lr", [0.01, 0.5, 1.5])
def test_eq_langevin_variance(lr: float) -> None:
    temperature, variance = 0.8, 3.0
    for _ in range(5000):
        variance = (1 - lr) ** 2 * variance + 2 * lr * temperature
    assert variance == pytest.approx(temperature / (1 - lr / 2))
    torch.manual_seed(0)
    prior = Normal(0.0, 1.0)
    start = math.sqrt(variance) * torch.randn(20_000, 1, dtype=torch.float64)
    z = refine(
        start, lambda z: prior.log_prob(z).sum(-1), steps=5, lr=lr, anchor=0,
        temperature=temperature,
    )  # fmt: skip
    assert z.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / 20_000))


# --- chapter 7 --------------------------------------------------------------------------------

# All but the continuous limit are exact to rounding: the oracle is a joint Gaussian over all
# levels, or torch's own divergence.

LOG_SNR = torch.tensor([3.0, 1.1, 0.2, -1.5, -3.5], dtype=torch.float64)  # levels 1 to 5


def _diffusion_joint(x: Tensor, log_snr: Tensor = LOG_SNR) -> MultivariateNormal:
    """q(z_1, …, z_T | x) for one number x, from independent pieces of noise added up.

    z_t / α_t = x + w_t with w_t a random walk whose variance is 1 / SNR(t).
    """
    walk = torch.minimum(*torch.meshgrid(-log_snr, -log_snr, indexing="ij")).exp()
    alpha = log_snr.sigmoid().sqrt()
    return MultivariateNormal(alpha * x, walk * alpha[:, None] * alpha)


def _conditional(joint: MultivariateNormal, wanted: int, known: list[int], z: Tensor) -> Normal:
    """The distribution of one coordinate of a joint Gaussian given others, by the block formula."""
    cov = joint.covariance_matrix
    gain = torch.linalg.solve(cov[known][:, known], cov[known, wanted])
    loc = joint.mean[wanted] + (z - joint.mean[known]) @ gain
    return Normal(loc, (cov[wanted, wanted] - cov[wanted, known] @ gain).sqrt())


def _diffusion_step(z: Tensor, x: Tensor, t: int) -> Normal:
    """(7.6), from level t to t − 1, counted from 1."""
    upper, lower = LOG_SNR[t - 1], LOG_SNR[t - 2]
    g = 1 - (upper - lower).exp()
    mean = lower.sigmoid().sqrt() * ((1 - g) * z / upper.sigmoid().sqrt() + g * x)
    return Normal(mean, (g * (-lower).sigmoid()).sqrt())


def _three_levels() -> tuple[list[Chain], list[Tensor]]:
    """A linear Gaussian model p and a q of three levels, as chains: steps a z + b, width s."""
    chains = []
    for shift, width in ((0.0, 1.0), (0.7, 0.6)):
        one = torch.ones(1, dtype=torch.float64)
        first = Independent(Normal(shift * one, width * one), 1)

        def then(z: Tensor, shift: float = shift, width: float = width) -> Independent:
            return Independent(Normal(0.8 * z[..., -1:] + shift, width), 1)

        chains.append(Chain(Chain(first, then, 2), then, 3))
    return chains, [torch.tensor(v, dtype=torch.float64) for v in (0.0, 1.0, 0.7, 0.6)]


def _three_joint(shift: float, width: float) -> MultivariateNormal:
    """The same as one Gaussian over [z_3, z_2, z_1]: z = L (shift + width ε)."""
    lower = torch.tensor([[1, 0, 0], [0.8, 1, 0], [0.64, 0.8, 1]], dtype=torch.float64)
    return MultivariateNormal(lower.sum(1) * shift, width**2 * lower @ lower.T)


def test_eq_levels_prior() -> None:
    (p, _), _ = _three_levels()
    z = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), _three_joint(0.0, 1.0).log_prob(z))
    by_steps = Normal(0.0, 1.0).log_prob(z[:, 0])
    for t in (1, 2):
        by_steps = by_steps + Normal(0.8 * z[:, t - 1], 1.0).log_prob(z[:, t])
    torch.testing.assert_close(p.log_prob(z), by_steps)


def test_eq_levels_posterior() -> None:
    # Each factor sees x and the level above only: conditioning on all levels above adds nothing.
    x = torch.tensor(1.3, dtype=torch.float64)
    joint = _diffusion_joint(x)
    z = 2 * torch.randn(50, 5, dtype=torch.float64)
    total = _conditional(joint, 4, [], z[:, :0]).log_prob(z[:, 4])
    for t in (5, 4, 3, 2):
        above = list(range(t - 1, 5))
        step = _conditional(joint, t - 2, above, z[:, above])
        short = _conditional(joint, t - 2, above[:1], z[:, above[:1]])
        torch.testing.assert_close(step.loc, short.loc)
        total = total + step.log_prob(z[:, t - 2])
    torch.testing.assert_close(total, joint.log_prob(z))


def test_eq_levels_elbo() -> None:
    # The KL of two joint Gaussians is the sum over levels, each averaged over the level above.
    whole = kl_divergence(_three_joint(0.7, 0.6), _three_joint(0.0, 1.0))
    q_joint = _three_joint(0.7, 0.6)
    levels = kl_divergence(Normal(0.7, 0.6), Normal(0.0, 1.0)).double()
    for _ in range(2):
        # Means 0.8 z + 0.7 and 0.8 z: they differ by the same at every z.
        levels = levels + kl_divergence(Normal(0.7, 0.6), Normal(0.0, 1.0))
    torch.testing.assert_close(whole, levels, rtol=1e-6, atol=1e-6)
    (p, q), _ = _three_levels()
    z = q_joint.sample((20_000,))
    torch.testing.assert_close(q.log_prob(z), q_joint.log_prob(z))
    mean, error = mean_and_standard_error(q.log_prob(z) - p.log_prob(z))
    assert abs(mean - whole.item()) < 4 * error


def test_eq_forward() -> None:
    x = torch.tensor(1.3, dtype=torch.float64)
    joint = _diffusion_joint(x)
    alpha2, sigma2 = joint.mean**2 / x**2, joint.variance
    torch.testing.assert_close(alpha2 + sigma2, torch.ones_like(LOG_SNR))
    torch.testing.assert_close((alpha2 / sigma2).log(), LOG_SNR)


def test_eq_forward_step() -> None:
    joint = _diffusion_joint(torch.tensor(1.3, dtype=torch.float64))
    z = torch.randn(20, 5, dtype=torch.float64)
    alpha, sigma = LOG_SNR.sigmoid().sqrt(), (-LOG_SNR).sigmoid().sqrt()
    for t in range(1, 5):
        below = list(range(t))  # all levels below, of which only the last should matter
        found = _conditional(joint, t, below, z[:, below])
        shrink = alpha[t] / alpha[t - 1]
        torch.testing.assert_close(found.loc, shrink * z[:, t - 1])
        torch.testing.assert_close(found.variance[0], sigma[t] ** 2 - shrink**2 * sigma[t - 1] ** 2)


def test_eq_reverse_step() -> None:
    x = torch.tensor(1.3, dtype=torch.float64)
    joint = _diffusion_joint(x)
    z = 3 * torch.randn(20, 5, dtype=torch.float64)
    for t in range(2, 6):
        found = _conditional(joint, t - 2, [t - 1], z[:, [t - 1]])
        step = _diffusion_step(z[:, t - 1], x, t)
        torch.testing.assert_close(step.loc, found.loc)
        torch.testing.assert_close(step.scale, found.scale)


def test_eq_denoising_model() -> None:
    # With a guess in the place of x the step is that of another data point's posterior; with the
    # right guess it is the posterior's own.
    x, guess = torch.tensor([1.3, -0.4], dtype=torch.float64)
    z = torch.randn(20, dtype=torch.float64)
    found = _conditional(_diffusion_joint(guess), 1, [2], z[:, None])
    model, known = _diffusion_step(z, guess, 3), _diffusion_step(z, x, 3)
    torch.testing.assert_close(model.loc, found.loc)
    assert torch.equal(model.scale, known.scale)
    assert not torch.allclose(model.loc, known.loc)


def test_eq_denoising_kl() -> None:
    x, guess, z = torch.randn(3, 30, dtype=torch.float64)
    snr = LOG_SNR.exp()
    for t in range(2, 6):
        divergence = kl_divergence(_diffusion_step(z, x, t), _diffusion_step(z, guess, t))
        weight = 0.5 * (snr[t - 2] - snr[t - 1])
        torch.testing.assert_close(divergence, weight * (x - guess) ** 2)


def test_eq_noise_prediction() -> None:
    x, noise, noise_guess = torch.randn(3, 30, dtype=torch.float64)
    alpha, sigma = LOG_SNR.sigmoid().sqrt(), (-LOG_SNR).sigmoid().sqrt()
    for t in range(2, 6):
        z = alpha[t - 1] * x + sigma[t - 1] * noise
        guess = (z - sigma[t - 1] * noise_guess) / alpha[t - 1]
        divergence = kl_divergence(_diffusion_step(z, x, t), _diffusion_step(z, guess, t))
        weight = 0.5 * ((LOG_SNR[t - 2] - LOG_SNR[t - 1]).exp() - 1)
        torch.testing.assert_close(divergence, weight * (noise - noise_guess) ** 2)


@pytest.mark.parametrize("v", [0.5, 1.0, 3.0])
def test_eq_continuous_limit(v: float) -> None:
    # x ~ N(0, v): ½ ∫ mmse dSNR, in closed form, by two schedules and in both variables.
    ends = torch.tensor([3.0, -3.0], dtype=torch.float64)
    exact = 0.5 * torch.log((1 + v * ends[0].exp()) / (1 + v * ends[1].exp()))
    line = torch.linspace(3, -3, 20_001, dtype=torch.float64)
    bent = 3 * (line / 3).sign() * (line / 3).abs() ** 1.5
    for lam in (line, bent):
        snr = lam.exp()
        error = v / (1 + v * snr)
        steps = 0.5 * ((snr[:-1] - snr[1:]) * error[1:]).sum()
        by_noise = 0.5 * (torch.expm1(lam[:-1] - lam[1:]) * (snr * error)[1:]).sum()
        torch.testing.assert_close(steps, exact, rtol=0, atol=2e-3)
        torch.testing.assert_close(by_noise, steps)


def _gaussian_diffusion(
    v: float, log_snr: Tensor, fitted: bool
) -> tuple[MultivariateNormal, MultivariateNormal]:
    """The joints over [z_T, …, z_1, x] of data N(0, v) with noise, q, and of the model, p."""
    size = len(log_snr)
    alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    # q: x has variance v, and z_t = α_t (x + walk).
    given_x = _diffusion_joint(torch.zeros((), dtype=torch.float64), log_snr).covariance_matrix
    cov = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    cov[:size, :size] = given_x.flip(0, 1) + v * (alpha[:, None] * alpha).flip(0, 1)
    cov[size, :size] = cov[:size, size] = v * alpha.flip(0)
    cov[size, size] = v
    # p: downwards, each coordinate a multiple of the one before plus noise.
    gain = alpha * v / (alpha**2 * v + sigma**2)
    snr = log_snr.exp()
    model = torch.ones(1, 1, dtype=torch.float64)
    for t in range(size, 1, -1):
        g = 1 - snr[t - 1] / snr[t - 2]
        slope = alpha[t - 2] * ((1 - g) / alpha[t - 1] + g * gain[t - 1])
        r = (snr[t - 2] - snr[t - 1]) * v / (1 + v * snr[t - 1])
        model = _append(model, slope, g * sigma[t - 2] ** 2 * (1 + r if fitted else 1))
    model = _append(model, gain[0], v / (1 + v * snr[0]))
    zero = torch.zeros(size + 1, dtype=torch.float64)
    return MultivariateNormal(zero, cov), MultivariateNormal(zero, model)


def _append(cov: Tensor, slope: Tensor, variance: Tensor) -> Tensor:
    """The covariance with one coordinate more: slope times the last one, plus noise."""
    cross = slope * cov[-1:]
    corner = slope**2 * cov[-1:, -1:] + variance
    return torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, corner], 1)])


@pytest.mark.parametrize("v", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("levels", [1, 2, 5, 40])
def test_eq_gaussian_levels(v: float, levels: int) -> None:
    # E[log p(x) − ELBO] over the data is the divergence of the joints of data and latents.
    log_snr = torch.linspace(3, -3, levels, dtype=torch.float64)
    q, p = _gaussian_diffusion(v, log_snr, fitted=False)
    snr = log_snr.exp()
    r = (snr[:-1] - snr[1:]) * v / (1 + v * snr[1:])
    torch.testing.assert_close(1 + r, (1 + v * snr[:-1]) / (1 + v * snr[1:]))
    top = kl_divergence(Normal(torch.zeros_like(r[:0].sum()), q.variance[0].sqrt()), Normal(0.0, 1))
    formula = 0.5 * (r - r.log1p()).sum() + top
    torch.testing.assert_close(kl_divergence(q, p), formula, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("levels", [2, 5, 40])
def test_eq_wider_step(levels: int) -> None:
    log_snr = torch.linspace(3, -3, levels, dtype=torch.float64)
    q, p = _gaussian_diffusion(1.0, log_snr, fitted=True)
    assert kl_divergence(q, p).abs() < 1e-10
    # And for any error at all: the average KL over widths is smallest at 1 + r, ½ X log(1 + r).
    error, size, r_of = torch.randn(400, 3, dtype=torch.float64), 3, 2.5
    error = error * (size / (error**2).sum(-1).mean()).sqrt() * r_of**0.5
    zero = torch.zeros_like(error)

    def cost(extra: float) -> float:
        model = Normal(error, math.sqrt(1 + extra))
        return float(kl_divergence(Normal(zero, 1.0), model).sum(-1).mean())

    assert cost(r_of) == pytest.approx(0.5 * size * math.log(1 + r_of))
    assert cost(0) == pytest.approx(0.5 * size * r_of)
    assert cost(r_of) < min(cost(0.9 * r_of), cost(1.1 * r_of))


# --- chapter 8 --------------------------------------------------------------------------------


def test_eq_continuous_flow() -> None:
    # dh/dt = h (1 + t) in two dimensions: z = u exp(3/2), and the divergence adds up to 3.
    u = torch.randn(6, 2, dtype=torch.float64)
    h, total, steps = u, torch.zeros(6).double(), 4000
    for step in range(steps):
        t = (step + 0.5) / steps
        h, total = h * (1 + (1 + t) / steps + 0.5 * ((1 + t) / steps) ** 2), total + 2 * (1 + t)
    log_p = Normal(0.0, 1.0).log_prob(u).sum(-1) - total / steps
    exact = Normal(0.0, torch.tensor(math.exp(1.5)).double()).log_prob(h).sum(-1)
    torch.testing.assert_close(log_p, exact, atol=1e-5, rtol=0)


def two_bumps(h: Tensor, t: float, centre: float = 1.5, width: float = 0.3) -> Tensor:
    """E[z₁ − u | z_t = h] for codes from two Gaussians, by integration over the code."""
    z1 = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    codes = Normal(centre, width).log_prob(z1).exp() + Normal(-centre, width).log_prob(z1).exp()
    weight = codes * Normal(t * z1, 1 - t).log_prob(h[:, None]).exp()
    velocity = z1 - (h[:, None] - t * z1) / (1 - t)
    return (weight * velocity).sum(-1) / weight.sum(-1)


def test_eq_flow_matching() -> None:
    # The conditional mean has the smallest squared error …
    torch.manual_seed(0)
    n = 100_000
    codes = 1.5 * torch.randn(n).sign().double() + 0.3 * torch.randn(n).double()
    u = torch.randn(n).double()
    halfway = torch.lerp(u, codes, 0.6)
    grid = torch.linspace(-4, 4, 401, dtype=torch.float64)
    table = two_bumps(grid, 0.6)
    place = ((halfway + 4) / 0.02).clamp(0, 399)
    low = place.long()
    best = torch.lerp(table[low], table[low + 1], place - low)

    def error(v: Tensor) -> float:
        return (v - (codes - u)).square().mean().item()

    assert error(best) < min(error(best + 0.1), error(best - 0.1), error(1.05 * best))
    # … and its density obeys the continuity equation: d/dt p = − d/dh (p v).
    h = torch.linspace(-3, 3, 2001, dtype=torch.float64)

    def density(t: float) -> Tensor:
        scale = math.hypot(1 - t, 0.3 * t)
        return sum(Normal(c * t, scale).log_prob(h).exp() / 2 for c in (-1.5, 1.5))  # type: ignore

    change = (density(0.601) - density(0.599)) / 0.002
    flow = torch.gradient(density(0.6) * two_bumps(h, 0.6), spacing=(h,))[0]
    torch.testing.assert_close(change[5:-5], -flow[5:-5], atol=1e-3, rtol=0)


def test_eq_divergence() -> None:
    w1, w2, w3 = (torch.randn(*shape).double() for shape in ((6, 3), (5, 6), (3, 5)))
    h = torch.randn(3).double()
    act = torch.nn.functional.silu
    jacobian = torch.func.jacrev(lambda h: w3 @ act(w2 @ act(w1 @ h)))(h)
    slope = torch.func.vmap(torch.func.grad(act))
    a = w1 @ h
    b = w2 @ act(a)
    mixed = w2 * (w1 @ w3).T
    torch.testing.assert_close(slope(b) @ mixed @ slope(a), jacobian.trace())


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_eq_rest(t: float) -> None:
    torch.manual_seed(0)
    u, code = torch.randn(2, 400_000, dtype=torch.float64)
    halfway = torch.lerp(u, code, t)
    slope = (halfway * (code - u)).mean() / halfway.square().mean()
    assert slope.item() == pytest.approx((2 * t - 1) / (t**2 + (1 - t) ** 2), abs=0.01)


def test_eq_guidance() -> None:
    # The field of one bump is that of both, plus the gradient of the log-share of that bump.
    h = torch.linspace(-2, 2, 9, dtype=torch.float64)
    t, width = 0.4, 0.3

    def log_share(h: Tensor) -> Tensor:
        scale = math.hypot(1 - t, width * t)
        up, down = (Normal(c * t, scale).log_prob(h) for c in (1.5, -1.5))
        return up - torch.logaddexp(up, down)

    wish = torch.func.grad(lambda h: log_share(h).sum())(h)
    variance = (1 - t) ** 2 + (t * width) ** 2
    one = 1.5 + (t * width**2 - (1 - t)) / variance * (h - 1.5 * t)
    torch.testing.assert_close(two_bumps(h, t) + (1 - t) / t * wish, one, atol=1e-6, rtol=0)
    # As t falls to 0 their product tends to the mean of that bump less that of all, 1.5 − 0.
    t = 1e-4
    wish = torch.func.grad(lambda h: log_share(h).sum())(h)
    torch.testing.assert_close((1 - t) / t * wish, torch.full_like(h, 1.5), atol=2e-3, rtol=0)


# --- chapter 9 --------------------------------------------------------------------------------


def test_eq_effective_samples() -> None:
    """Effective samples: all of them, one of them, and the variance that they stand for."""
    solution = chapter09_effective_samples
    equal = torch.full((7, 3), -900.0, dtype=torch.float64)
    assert torch.allclose(solution(equal), torch.full((3,), 7.0).double())
    alone = equal.clone()
    alone[2] += 800
    assert torch.allclose(solution(alone), torch.ones(3).double())
    # A self-normalised mean of independent values of variance 1 has the variance 1 / S_eff.
    torch.manual_seed(0)
    log_w = 1.5 * torch.randn(50, 1, dtype=torch.float64)
    share = log_w.softmax(0)
    means = (share * torch.randn(50, 200_000, dtype=torch.float64)).sum(0)
    assert means.var().item() * solution(log_w).item() == pytest.approx(1, rel=0.02)


def chapter09_effective_samples(log_weights: Tensor) -> Tensor:
    """The equation as chapter 9's solution computes it."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def test_the_prior_terms_that_section_7_7_tells_of() -> None:
    """By sums over a grid: of noise that is added, and of noise that is folded to one side."""
    a, s = (1 / (1 + math.exp(4.0))) ** 0.5, (1 / (1 + math.exp(-4.0))) ** 0.5
    z = torch.linspace(-9, 9, 400_001, dtype=torch.float64)
    prior, added = Normal(0.0, 1.0).log_prob(z), Normal(a, s).log_prob(z)
    folded = torch.where(z > a, added + math.log(2), -torch.inf)
    for log_q, expected in ((added, 0.01), (folded, 0.81)):
        terms = torch.where(log_q > -torch.inf, log_q.exp() * (log_q - prior), 0.0)
        assert round(float(terms.sum() * (z[1] - z[0])), 2) == expected
