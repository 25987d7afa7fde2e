"""What several test files share: fixed randomness, an exact oracle, zuko kept in its place."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from flowvae_tutorial import VAE, GaussianLikelihood, GaussianPosterior, StandardNormal

LATENT, FEATURES, SCALE = 2, 6, 0.5


@pytest.fixture(autouse=True)
def fixed_randomness() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@dataclass
class LinearGaussian:
    """Probabilistic PCA, x = W z + b + s ε, of which everything is known in closed form.

    The columns of W are orthogonal, so that the exact posterior N(M⁻¹ Wᵀ (x − b), s² M⁻¹) with
    M = Wᵀ W + s² I is diagonal. `widen` multiplies its standard deviation.
    """

    dtype: torch.dtype = torch.float64
    widen: float = 1.0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(FEATURES, LATENT, generator=generator, dtype=torch.float64)
        self.weight = torch.linalg.qr(noise).Q * torch.tensor([2.0, 0.7]).double()
        self.bias = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
        self.covariance = self.weight @ self.weight.T + SCALE**2 * torch.eye(FEATURES).double()
        precision = self.weight.T @ self.weight + SCALE**2 * torch.eye(LATENT).double()
        self.to_mean = torch.linalg.solve(precision, self.weight.T)
        self.posterior_scale = SCALE * torch.linalg.inv(precision).diagonal().sqrt()
        self.vae = self._vae().to(self.dtype)

    @torch.no_grad()
    def _vae(self) -> VAE:
        decoder, encoder = nn.Linear(LATENT, FEATURES), nn.Linear(FEATURES, 2 * LATENT)
        vae = VAE(
            StandardNormal(LATENT),
            GaussianPosterior(encoder),
            GaussianLikelihood(decoder, FEATURES, min_scale=0.1),
        ).double()
        decoder.weight.copy_(self.weight)
        decoder.bias.copy_(self.bias)
        # The inverse of the softplus.
        vae.likelihood.raw_scale.fill_(math.log(math.expm1(SCALE - 0.1)))
        log_scale = (self.widen * self.posterior_scale).log()
        encoder.weight.copy_(torch.cat([self.to_mean, torch.zeros_like(self.to_mean)]))
        encoder.bias.copy_(torch.cat([-self.to_mean @ self.bias, log_scale]))
        return vae

    def data(self, n: int) -> Tensor:
        """`n` examples of the model's own."""
        z = torch.randn(n, LATENT, dtype=torch.float64)
        noise = torch.randn(n, FEATURES, dtype=torch.float64)
        return (z @ self.weight.T + self.bias + SCALE * noise).to(self.dtype)

    def log_p(self, x: Tensor) -> Tensor:
        """The closed-form log p(x), in float64."""
        return MultivariateNormal(self.bias, self.covariance).log_prob(x.double())

    @torch.no_grad()
    def kl(self, x: Tensor) -> Tensor:
        """The closed-form KL(q(z | x) || p(z))."""
        return kl_divergence(self.vae.posterior(x), self.vae.prior())


@pytest.fixture
def linear_gaussian() -> type[LinearGaussian]:
    return LinearGaussian


@pytest.fixture
def zuko(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Zuko, whose import switches torch's validation off: for this test only."""
    monkeypatch.setattr(Distribution, "_validate_args", False)
    monkeypatch.setattr(Distribution, "arg_constraints", {})
    import zuko

    yield zuko
