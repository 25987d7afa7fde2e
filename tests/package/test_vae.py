"""The VAE against an exact oracle, its shapes and costs, zuko's flows, and bad input."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, LogNormal, Normal, constraints

import flowvae_tutorial.vae
from flowvae_tutorial import (
    ELBO,
    VAE,
    BernoulliLikelihood,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    InputError,
    StandardNormal,
    VampPrior,
    build,
    mlp,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.errors import check_data

LATENT, FEATURES = 2, 6


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(values.numel())


def small(latent: int = LATENT, features: int = FEATURES, prior: nn.Module | None = None) -> VAE:
    return VAE(
        prior or StandardNormal(latent),
        GaussianPosterior(mlp(features, (8,), 2 * latent)),
        GaussianLikelihood(mlp(latent, (8,), features), features),
    )


# --- the exact oracle -------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_with_the_exact_posterior_every_elbo_sample_is_log_p(
    linear_gaussian: Callable[..., Any], dtype: torch.dtype, atol: float
) -> None:
    exact = linear_gaussian(dtype)
    x = exact.data(200)
    value = exact.vae.elbo(x, 50).value
    assert value.dtype == dtype
    expected = exact.log_p(x).expand(50, 200)
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_with_the_exact_posterior_one_sample_gives_the_marginal(
    linear_gaussian: Callable[..., Any], dtype: torch.dtype, atol: float
) -> None:
    exact = linear_gaussian(dtype)
    x = exact.data(200)
    for num_samples in (1, 3, 100):
        found = exact.vae.log_marginal(x, num_samples).double()
        torch.testing.assert_close(found, exact.log_p(x), rtol=0, atol=atol)


def test_log_marginal_of_a_widened_posterior_is_log_p_to_its_standard_errors(
    linear_gaussian: Callable[..., Any],
) -> None:
    exact, n, s = linear_gaussian(torch.float32, widen=1.5), 200, 5000
    x = exact.data(n)
    error = exact.vae.log_marginal(x, s).double() - exact.log_p(x)
    # The delta method: log of a mean errs by the mean's error over the mean.
    with torch.no_grad():
        weight = (exact.vae.elbo(x, s).value.double() - exact.log_p(x)).exp()
    standard_error = weight.std(0) / weight.mean(0) / math.sqrt(s)
    assert error.mean().abs() < 0.005
    assert (error.abs() < 4 * standard_error).all()
    # Squares of n standard normals have mean 1: the errors are as small as they can be, no more.
    squares = (error / standard_error).square().mean().item()
    assert squares == pytest.approx(1, abs=4 * math.sqrt(2 / n))


def test_elbo_falls_short_of_log_p_by_the_kl_to_the_exact_posterior(
    linear_gaussian: Callable[..., Any],
) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(2000)
    with torch.no_grad():
        gap, error = mean_and_error(exact.log_p(x) - exact.vae.elbo(x, 10).value.mean(0))
    assert gap == pytest.approx(LATENT * ((1.5**2 - 1) / 2 - math.log(1.5)), abs=4 * error)
    assert gap - 4 * error > 0


def test_gradient_of_the_elbo_is_that_of_the_kl_to_the_exact_posterior(
    linear_gaussian: Callable[..., Any],
) -> None:
    exact, n = linear_gaussian(widen=1.5), 20_000
    bias = exact.vae.posterior.net.bias
    (found,) = torch.autograd.grad(exact.vae.loss(exact.data(n)), bias)
    # d KL / d log σ = 1.5² − 1, and d KL / d μ = 0 at the exact mean.
    expected = torch.tensor([0.0, 0.0, 1.25, 1.25], dtype=torch.float64)
    # Of the path gradient; with the score it would be 1.5 / scale and 1.5² √2.
    of_mean = (1.5 - 1 / 1.5) / exact.posterior_scale
    deviation = torch.cat([of_mean, torch.full((2,), 1.25 * 2**0.5)])
    assert ((found - expected).abs() < 4 * deviation / math.sqrt(n)).all()


def test_log_marginal_rises_with_the_number_of_samples_to_log_p(
    linear_gaussian: Callable[..., Any],
) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(8000)
    with torch.no_grad():
        elbo = exact.vae.elbo(x).value[0] - exact.log_p(x)
    short = [exact.vae.log_marginal(x, s) - exact.log_p(x) for s in (1, 4, 16, 200)]
    means, errors = zip(*map(mean_and_error, short), strict=True)
    # One sample of the weight is one sample of the bound.
    mean, error = mean_and_error(elbo)
    assert means[0] == pytest.approx(mean, abs=4 * math.hypot(error, errors[0]))
    for i in range(3):
        assert means[i + 1] - means[i] > 2 * math.hypot(errors[i], errors[i + 1])
    assert means[-1] == pytest.approx(0, abs=0.01)
    assert means[-1] < 3 * errors[-1]


@pytest.mark.parametrize("widen", [1.0, 1.5])
def test_monte_carlo_kl_is_the_closed_form(
    linear_gaussian: Callable[..., Any], widen: float
) -> None:
    exact, s = linear_gaussian(widen=widen), 5000
    x = exact.data(100)
    with torch.no_grad():
        kl = exact.vae.elbo(x, s).kl
    # Samples are shared by no two examples, so the errors of the examples are independent.
    difference = kl.mean(0) - exact.kl(x)
    error = kl.std(0) / math.sqrt(s)
    assert difference.mean().abs() < 3 * error.square().sum().sqrt() / len(x)
    assert (difference.abs() < 4 * error).all()


def test_reconstruction_is_the_expected_log_likelihood(linear_gaussian: Callable[..., Any]) -> None:
    exact, s = linear_gaussian(), 5000
    x = exact.data(100)
    with torch.no_grad():
        reconstruction = exact.vae.elbo(x, s).reconstruction
    # With the exact posterior, E log p(x | z) = log p(x) + KL.
    difference = reconstruction.mean(0) - exact.log_p(x) - exact.kl(x)
    assert (difference.abs() < 4 * reconstruction.std(0) / math.sqrt(s)).all()


def test_samples_have_the_covariance_of_the_model(linear_gaussian: Callable[..., Any]) -> None:
    exact, n = linear_gaussian(), 40_000
    for mean, covariance in [
        (False, exact.covariance),
        (True, exact.weight @ exact.weight.T),
    ]:
        x = exact.vae.sample(n, mean=mean)
        atol = 5 * covariance.diagonal().max().item() * math.sqrt(2 / n)
        torch.testing.assert_close(x.mean(0), exact.bias, rtol=0, atol=atol)
        torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=atol)


def test_reconstruction_is_the_likelihoods_mean_at_a_posterior_sample(
    linear_gaussian: Callable[..., Any],
) -> None:
    exact, n = linear_gaussian(), 20_000
    x = exact.data(1)
    found = exact.vae.reconstruct(x.expand(n, -1))
    centre = (x - exact.bias) @ (exact.weight @ exact.to_mean).T + exact.bias
    covariance = exact.weight @ torch.diag(exact.posterior_scale.square()) @ exact.weight.T
    atol = 5 * covariance.diagonal().max().sqrt().item() / math.sqrt(n)
    torch.testing.assert_close(found.mean(0), centre[0], rtol=0, atol=atol)
    torch.testing.assert_close(found.T.cov(), covariance, rtol=0, atol=atol)


# --- the promises of the interface ------------------------------------------------------------


def test_elbo_has_a_row_a_sample_and_a_column_an_example() -> None:
    vae, x = small(), torch.randn(5, FEATURES)
    for num_samples in (1, 3):
        elbo = vae.elbo(x, num_samples)
        assert elbo.reconstruction.shape == elbo.kl.shape == (num_samples, 5)
    assert torch.equal(elbo.value, elbo.reconstruction - elbo.kl)
    assert vae.log_marginal(x, 3).shape == (5,)


def test_elbo_value_is_reconstruction_minus_kl() -> None:
    assert ELBO(torch.tensor([[5.0]]), torch.tensor([[2.0]])).value.item() == 3


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 4.0])
def test_loss_is_the_mean_of_minus_the_elbo_with_its_kl_weighted(beta: float) -> None:
    vae, x = small(), torch.randn(5, FEATURES)
    torch.manual_seed(3)
    elbo = vae.elbo(x)
    torch.manual_seed(3)
    loss = vae.loss(x, beta)
    assert loss.shape == ()
    torch.testing.assert_close(loss, (beta * elbo.kl - elbo.reconstruction).mean())
    torch.manual_seed(3)
    assert torch.equal(vae(x, beta), loss)


def test_loss_is_minus_the_elbo_unless_told_otherwise() -> None:
    vae, x = small(), torch.randn(5, FEATURES)
    torch.manual_seed(3)
    expected = -vae.elbo(x).value.mean()
    for call in (vae.loss, vae):
        torch.manual_seed(3)
        torch.testing.assert_close(call(x), expected)


def test_reconstructions_and_samples_are_as_wide_as_the_data() -> None:
    vae = VAE(
        GaussianMixture(LATENT, 3),
        GaussianPosterior(mlp(FEATURES, (8,), 2 * LATENT)),
        BernoulliLikelihood(mlp(LATENT, (8,), FEATURES)),
    )
    x = torch.randint(2, (5, FEATURES)).float()
    drawn, mean, reconstructed = vae.sample(50), vae.sample(50, mean=True), vae.reconstruct(x)
    assert drawn.shape == mean.shape == (50, FEATURES)
    assert reconstructed.shape == (5, FEATURES)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    for probability in (mean, reconstructed):
        assert ((probability > 0) & (probability < 1)).all()


def test_only_the_elbo_builds_a_graph() -> None:
    vae, x = small(), torch.randn(5, FEATURES)
    assert vae.elbo(x).value.requires_grad
    for value in (vae.log_marginal(x, 3), vae.sample(3, mean=True), vae.reconstruct(x)):
        assert not value.requires_grad


@pytest.mark.parametrize("model", ["gaussian", "mixture"])
@pytest.mark.parametrize("name", ["rings", "digits", "digits-binary"])
def test_gradient_reaches_every_parameter_of_the_books_models(model: str, name: str) -> None:
    data = load(name)
    vae = build(model, data)
    vae(data.batch(data.train[:64])).backward()
    for parameter_name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


class CountingPrior(StandardNormal):
    calls = 0

    def forward(self, context: None = None) -> Distribution:
        self.calls += 1
        return super().forward()


@pytest.mark.parametrize(
    "call",
    [
        lambda vae, x: vae.elbo(x, 7),
        lambda vae, x: vae.loss(x),
        lambda vae, x: vae(x),
        lambda vae, x: vae.log_marginal(x, 70),
        lambda vae, x: vae.sample(7),
    ],
    ids=["elbo", "loss", "forward", "log_marginal", "sample"],
)
def test_the_prior_is_called_once(
    call: Callable[[VAE, Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowvae_tutorial.vae, "CHUNK", 4)
    prior = CountingPrior(LATENT)
    vae = small(prior=prior)
    prior.calls = 0
    call(vae, torch.randn(10, FEATURES))
    assert prior.calls == 1


# --- chunks of log_marginal -------------------------------------------------------------------


class Replay(nn.Module):
    """A posterior whose samples are read from a table, `(S, N, 1)`, one after the other."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table
        self.used = torch.zeros(table.shape[1], dtype=torch.long)

    def forward(self, x: Tensor) -> Distribution:
        replay = self
        rows = x[:, 0].long()

        class FromTable(Independent):
            def rsample_and_log_prob(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
                (size,) = sample_shape
                steps = replay.used[rows] + torch.arange(size)[:, None]
                replay.used[rows] += size
                z = replay.table[steps, rows]
                return z, self.log_prob(z)

        loc = torch.zeros(len(x), 1, dtype=x.dtype)
        return FromTable(Normal(loc, torch.ones_like(loc)), 1)


class Recording(nn.Module):
    """A fixed likelihood, p(x | z) = N(z, 1) for two pixels, that notes how much it decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded: list[int] = []

    def forward(self, z: Tensor) -> Distribution:
        self.decoded.append(z.shape[:-1].numel())
        loc = z.expand(*z.shape[:-1], 2)
        return Independent(Normal(loc, torch.ones_like(loc)), 1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 23, 24, 1000])
@pytest.mark.parametrize("num_samples", [1, 13])
def test_chunks_change_no_sample_and_no_weight(
    chunk: int, num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowvae_tutorial.vae, "CHUNK", chunk)
    n = 8
    table = torch.randn(num_samples, n, 1, dtype=torch.float64)
    x = torch.stack([torch.arange(n), torch.randn(n)], dim=-1).double()
    posterior, likelihood = Replay(table), Recording()
    vae = VAE(StandardNormal(1).double(), posterior, likelihood)
    posterior.used.zero_()
    likelihood.decoded.clear()
    found = vae.log_marginal(x, num_samples)
    # Prior and posterior are the same, so the weight is the likelihood alone.
    log_weight = likelihood(table).log_prob(x)
    expected = log_weight.logsumexp(0) - math.log(num_samples)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    *decoded, _ = likelihood.decoded
    assert sum(decoded) == n * num_samples
    assert max(decoded) <= chunk


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    likelihood = Recording()
    vae = VAE(StandardNormal(1), GaussianPosterior(nn.Linear(2, 2)), likelihood)
    most = []
    for num_samples in (1000, 30_000):
        likelihood.decoded.clear()
        vae.log_marginal(torch.randn(33, 2), num_samples)
        assert sum(likelihood.decoded) == 33 * num_samples
        most.append(max(likelihood.decoded))
    assert most[0] == most[1] <= flowvae_tutorial.vae.CHUNK


def test_more_examples_than_a_chunk_holds_are_split_too() -> None:
    likelihood = Recording()
    vae = VAE(StandardNormal(1), GaussianPosterior(nn.Linear(2, 2)), likelihood)
    likelihood.decoded.clear()
    n = flowvae_tutorial.vae.CHUNK + 1
    assert vae.log_marginal(torch.randn(n, 2), 2).shape == (n,)
    assert sum(likelihood.decoded) == 2 * n
    assert max(likelihood.decoded) <= flowvae_tutorial.vae.CHUNK


def test_log_marginal_does_not_overflow() -> None:
    vae = VAE(StandardNormal(1), GaussianPosterior(nn.Linear(2, 2)), Recording())
    x = torch.full((3, 2), 1000.0)
    nn.init.zeros_(vae.posterior.net.weight)
    found = vae.log_marginal(x, 50)
    assert found.isfinite().all() and (found < -9e5).all()


# --- zuko's flows as they are -----------------------------------------------------------------


def zuko_vae(zuko: ModuleType, prior: str, posterior: str) -> VAE:
    # Three latents: with fewer, some autoregressive weights are masked whatever the input.
    parts: dict[str, Callable[[], nn.Module]] = {
        "StandardNormal": lambda: StandardNormal(3),
        "NSF prior": lambda: zuko.flows.NSF(3, transforms=2, hidden_features=(16,)),
        "GaussianPosterior": lambda: GaussianPosterior(mlp(FEATURES, (16,), 6)),
        "MAF": lambda: zuko.flows.MAF(3, FEATURES, transforms=2, hidden_features=(16,)),
        "NSF": lambda: zuko.flows.NSF(3, FEATURES, transforms=2, hidden_features=(16,)),
    }
    likelihood = GaussianLikelihood(mlp(3, (16,), FEATURES), FEATURES)
    return VAE(parts[prior](), parts[posterior](), likelihood)


ZUKO = [
    ("NSF prior", "GaussianPosterior"),
    ("StandardNormal", "MAF"),
    ("StandardNormal", "NSF"),
    ("NSF prior", "NSF"),
]


@pytest.mark.parametrize(("prior", "posterior"), ZUKO)
def test_zuko_flows_need_no_adapter(zuko: ModuleType, prior: str, posterior: str) -> None:
    vae, x = zuko_vae(zuko, prior, posterior), torch.randn(32, FEATURES)
    elbo = vae.elbo(x, 4)
    assert elbo.kl.shape == elbo.reconstruction.shape == (4, 32)
    assert elbo.value.isfinite().all()
    log_p = vae.log_marginal(x, 200)
    assert log_p.shape == (32,) and log_p.isfinite().all()
    assert log_p.mean() > elbo.value.mean()
    assert vae.sample(7).shape == (7, FEATURES)
    assert vae.reconstruct(x).shape == (32, FEATURES)
    vae(x).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_zuko_posterior_estimates_the_same_marginal(
    zuko: ModuleType, linear_gaussian: Callable[..., Any]
) -> None:
    exact = linear_gaussian(torch.float32)
    x = exact.data(20)
    flow = zuko.flows.MAF(LATENT, FEATURES, transforms=1, hidden_features=(8,))
    vae = VAE(exact.vae.prior, flow, exact.vae.likelihood)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    for _ in range(400):
        loss = vae(exact.data(128))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = vae.log_marginal(x, 5000).double() - exact.log_p(x)
    with torch.no_grad():
        weight = (vae.elbo(x, 5000).value.double() - exact.log_p(x)).exp()
    standard_error = weight.std(0) / weight.mean(0) / math.sqrt(5000)
    assert (error.abs() < 4 * standard_error + 1e-3).all()


SCRIPT = """
def show(call):
    try:
        print(call())
    except Exception as error:
        print(type(error).__name__, error)

def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randint(2, (5, 4)).float()
    for prior, likelihood in [
        (StandardNormal(2), GaussianLikelihood(mlp(2, (8,), 4), 4)),
        (GaussianMixture(2, 3), BernoulliLikelihood(mlp(2, (8,), 4))),
    ]:
        vae = VAE(prior, GaussianPosterior(mlp(4, (8,), 4)), likelihood)
        show(lambda: vae.elbo(x, 3).value.tolist())
        show(lambda: vae.log_marginal(x, 30).tolist())
        show(lambda: vae.sample(2).tolist())
        for bad in (x[:, :3], x.long(), x * torch.nan, x / 0, x / 2, x[:0]):
            show(lambda: vae.elbo(bad).value.tolist())
        # What torch's own validation would refuse.
        show(lambda: vae.prior().log_prob(x[:, :2] * torch.nan).tolist())
        show(lambda: vae.likelihood(x[:, :2]).log_prob(x + torch.nan).tolist())
        show(lambda: aggregated_posterior(vae, x).log_prob(x[:, :2] * torch.nan).tolist())
        for module in (vae.prior, vae.likelihood, vae.posterior):
            for parameter in module.parameters():
                torch.nn.init.constant_(parameter, torch.nan)
            show(lambda: vae.elbo(x).value.tolist())
    show(lambda: StandardNormal(0))
"""


def test_importing_zuko_before_after_or_never_changes_nothing() -> None:
    ours = f"import torch\nfrom flowvae_tutorial import *\n{SCRIPT}\nmain()\n"
    never_then_after, before = (
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout
        for program in (f"{ours}import zuko\nmain()\n", f"import zuko\n{ours}")
    )  # fmt: skip
    assert never_then_after == 2 * before
    # Six kinds of bad input, of which x / 2 is bad for Bernoulli alone, and a prior of nothing.
    assert before.count("InputError") == 12
    assert before.count("Error") == 12


# --- bad input --------------------------------------------------------------------------------

GOOD = torch.zeros(3, FEATURES)


def with_one(value: float) -> Tensor:
    x = GOOD.clone()
    x[1, 2] = value
    return x


BAD = {
    "too narrow": (GOOD[:, 1:], r"shape \(N, 6\), got \(3, 5\)"),
    "too wide": (torch.zeros(3, 7), r"shape \(N, 6\), got \(3, 7\)"),
    "one example": (GOOD[0], r"shape \(N, 6\), got \(6,\)"),
    "images": (GOOD.reshape(3, 2, 3), r"got \(3, 2, 3\): flatten each example"),
    "batches of rows": (GOOD[None], r"got \(1, 3, 6\)"),
    "empty": (GOOD[:0], "at least one example"),
    "8-bit": (GOOD.to(torch.uint8), r"floating point, got torch.uint8: [^\n]*x.float\(\) / 255"),
    "integer": (GOOD.long(), "floating point, got torch.int64"),
    "boolean": (GOOD.bool(), "floating point, got torch.bool"),
    "NaN": (with_one(math.nan), "NaN or infinite"),
    "inf": (with_one(math.inf), "NaN or infinite"),
    "−inf": (with_one(-math.inf), "NaN or infinite"),
}
BAD_BERNOULLI = {
    "grey": (with_one(0.5), "takes 0 and 1 only"),
    "two": (with_one(2.0), "takes 0 and 1 only"),
    "negative": (with_one(-1.0), "takes 0 and 1 only"),
}
CALLS: dict[str, Callable[[VAE, Tensor], object]] = {
    "elbo": lambda vae, x: vae.elbo(x),
    "loss": lambda vae, x: vae.loss(x),
    "forward": lambda vae, x: vae(x),
    "log_marginal": lambda vae, x: vae.log_marginal(x, 2),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
}


def bernoulli() -> VAE:
    return VAE(
        StandardNormal(LATENT),
        GaussianPosterior(nn.Linear(FEATURES, 2 * LATENT)),
        BernoulliLikelihood(nn.Linear(LATENT, FEATURES)),
    )


def one_line(message: str) -> str:
    return rf"\A[^\n]*{message}[^\n]*\Z"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("make", [small, bernoulli])
def test_bad_data_is_refused_in_one_line(make: Callable[[], VAE], bad: str, call: str) -> None:
    x, message = BAD[bad]
    with pytest.raises(InputError, match=one_line(message)):
        CALLS[call](make(), x)


@pytest.mark.parametrize("bad", [*BAD, *BAD_BERNOULLI])
def test_the_check_calls_data_what_its_caller_calls_them(bad: str) -> None:
    x, message = {**BAD, **BAD_BERNOULLI}[bad]
    message = message.replace("x.float", "data.train.float")
    with pytest.raises(InputError, match=rf"\Adata.train (must|is|has) {one_line(message)[2:]}"):
        check_data(x, FEATURES, support=constraints.boolean, name="data.train")


def test_data_of_another_dtype_or_device_than_the_models_are_refused_by_name() -> None:
    for like, message in [
        (torch.zeros(1).double(), r"convert one, data.train.to\(torch.float64\)"),
        (
            torch.zeros(1, device="meta"),
            r'on cpu, the model on meta: [^\n]*data.train.to\("meta"\)',
        ),
    ]:
        with pytest.raises(InputError, match=one_line(message)):
            check_data(GOOD, FEATURES, like=like, name="data.train")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("bad", BAD_BERNOULLI)
def test_values_between_are_refused_by_bernoulli_alone(bad: str, call: str) -> None:
    x, message = BAD_BERNOULLI[bad]
    CALLS[call](small(), x)
    with pytest.raises(InputError, match=one_line(message)):
        CALLS[call](bernoulli(), x)


def test_large_values_are_not_taken_for_infinite_ones() -> None:
    x = torch.full((3, FEATURES), 3e38)
    assert x.sum().isinf()
    small().elbo(x)


def test_values_outside_any_other_support_are_refused_too() -> None:
    class Positive(nn.Module):
        def forward(self, z: Tensor) -> Distribution:
            return Independent(LogNormal(z, torch.ones_like(z)), 1)

    vae = VAE(StandardNormal(2), GaussianPosterior(nn.Linear(2, 4)), Positive())
    vae.elbo(torch.ones(3, 2))
    with pytest.raises(InputError, match=one_line("gives no density")):
        vae.elbo(-torch.ones(3, 2))


@pytest.mark.parametrize("num_samples", [0, -1])
@pytest.mark.parametrize("call", ["elbo", "log_marginal"])
def test_fewer_than_one_sample_is_refused(call: str, num_samples: int) -> None:
    message = one_line(f"num_samples must be from 1 to 2147483647, got {num_samples}")
    with pytest.raises(InputError, match=message):
        getattr(small(), call)(GOOD, num_samples)


def test_an_estimate_that_is_no_number_is_refused_and_located() -> None:
    posterior = GaussianPosterior(nn.Linear(FEATURES, 2 * LATENT, bias=False))
    nn.init.constant_(posterior.net.weight, 200.0)
    vae = VAE(StandardNormal(LATENT), posterior, small().likelihood)
    x = GOOD.clone()
    assert vae.log_marginal(x, 10).isfinite().all()
    x[1, 2] = 1.0  # the widths become exp(200), beyond float32
    with pytest.raises(InputError, match=one_line(r"NaN for 1 of 3 examples, x\[1\] is the first")):
        vae.log_marginal(x, 10)


def parts(
    prior: int = LATENT,
    posterior: tuple[int, int] = (FEATURES, LATENT),
    decoder: tuple[int, int] = (LATENT, FEATURES),
    features: int = FEATURES,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        StandardNormal(prior),
        GaussianPosterior(nn.Linear(posterior[0], 2 * posterior[1])),
        GaussianLikelihood(nn.Linear(*decoder), features),
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"prior": 3}, r"likelihood does not take the prior's latents of shape \(3,\)"),
        ({"decoder": (3, FEATURES)}, r"likelihood does not take the prior's latents"),
        ({"posterior": (FEATURES, 3)}, r"posterior's latents have shape \(3,\), the prior's \(2,"),
        ({"posterior": (5, LATENT)}, r"posterior does not take the likelihood's data of shape"),
        ({"decoder": (LATENT, 5)}, "likelihood"),
        ({"features": 5}, "likelihood"),
        ({"features": 1}, "likelihood"),
        ({"decoder": (LATENT, 1)}, "likelihood"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=one_line(message)):
        VAE(*parts(**sizes))


def test_parts_that_fit_are_not_refused() -> None:
    assert VAE(*parts()).features == FEATURES


class Fixed(nn.Module):
    """A part that gives one distribution, whatever it is asked."""

    def __init__(self, give: Callable[[Any], Distribution]) -> None:
        super().__init__()
        self.give = give

    def forward(self, given: Any = None) -> Distribution:
        return self.give(given)


def test_a_part_without_independent_is_refused() -> None:
    """Densities that are not summed over the latents would broadcast to `(S, D, D)` unseen."""
    prior, posterior, likelihood = parts()
    bare = Fixed(lambda _: Normal(torch.zeros(LATENT), 1.0))
    message = r"prior has batch shape \(2,\) and event shape \(\): make them \(\) and \(D,\)"
    with pytest.raises(InputError, match=one_line(message)):
        VAE(bare, posterior, likelihood)
    bare = Fixed(lambda z: Normal(z.new_zeros(*z.shape[:2], FEATURES), 1.0))
    message = r"likelihood has batch shape \(1, 1, 6\) and event shape \(\): make them \(S, N\)"
    with pytest.raises(InputError, match=one_line(message)):
        VAE(prior, posterior, bare)
    bare = Fixed(lambda x: Normal(x.new_zeros(len(x), LATENT), 1.0))
    with pytest.raises(InputError, match=one_line(r"posterior's latents have shape \(\)")):
        VAE(prior, bare, likelihood)


def test_a_prior_of_another_posterior_is_refused() -> None:
    _, posterior, likelihood = parts()
    pseudo_inputs = torch.rand(5, FEATURES)
    other = VampPrior(GaussianPosterior(nn.Linear(FEATURES, 2 * LATENT)), pseudo_inputs)
    with pytest.raises(InputError, match=one_line("prior mixes another posterior than the VAE's")):
        VAE(other, posterior, likelihood)
    for shared in (posterior, posterior.forward):
        VAE(VampPrior(shared, pseudo_inputs), posterior, likelihood)


def test_a_network_with_batch_normalisation_is_not_changed_by_being_looked_at() -> None:
    prior, _, likelihood = parts()
    normalised = nn.BatchNorm1d(FEATURES)
    dropout, held = nn.Dropout(0.5), nn.Dropout(0.5).eval()
    linear = nn.Linear(FEATURES, 2 * LATENT)
    posterior = GaussianPosterior(nn.Sequential(normalised, dropout, held, linear))
    before, state = copy.deepcopy(posterior.state_dict()), torch.get_rng_state()
    VAE(prior, posterior, likelihood)
    assert torch.equal(torch.get_rng_state(), state)
    after = posterior.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert normalised.training and dropout.training and not held.training


class OneRowAPicture(nn.Module):
    """A likelihood that takes `(S, N, D)` and nothing else, as the class says it will be given."""

    def forward(self, z: Tensor) -> Distribution:
        samples, n, _ = z.shape
        return Independent(Normal(z.sum(-1, keepdim=True).expand(samples, n, FEATURES), 1.0), 1)


def test_every_call_gives_the_likelihood_samples_examples_and_latents() -> None:
    prior, posterior, _ = parts()
    vae, x = VAE(prior, posterior, OneRowAPicture()), torch.rand(4, FEATURES)
    assert vae.elbo(x, 3).reconstruction.shape == (3, 4)
    assert vae.log_marginal(x, 3).shape == (4,)
    for sample in (vae.sample(4), vae.sample(4, mean=True), vae.reconstruct(x)):
        assert sample.shape == (4, FEATURES)
    assert vae.sample(1).shape == vae.reconstruct(x[:1]).shape == (1, FEATURES)
