"""What several test files share: fixed randomness, two exact oracles, zuko kept in its place."""

import errno
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from flowvae_tutorial import (
    VAE,
    GaussianLikelihood,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    StandardNormal,
)
from flowvae_tutorial.networks import TwoInputs

LATENT, FEATURES, SCALE = 2, 6, 0.5


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """From a call of it on, the disk has no room for files of that name; None gives it room."""
    replace, without_room = os.replace, None

    def full(half: Path, place: Path) -> None:
        if Path(place).name == without_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(half, place)

    def fill(name: str | None) -> None:
        nonlocal without_room
        without_room = name

    monkeypatch.setattr(os, "replace", full)
    return fill


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


TOP, LOWER = 2, 3


@dataclass
class TwoLevels:
    """z₂ ~ N(0, I), z₁ ~ N(A z₂ + a, s₁² I), x ~ N(B z₁ + b, s² I), in float64.

    The columns of A are orthogonal, those of B too and of one length, so that the exact
    posteriors q(z₂ | x) and q(z₁ | x, z₂) are diagonal. `widen` multiplies their deviations.
    """

    widen: float = 1.0
    lower_scale: float = 0.6
    scale: float = SCALE

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(2)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.A = torch.linalg.qr(draw(LOWER, TOP)).Q * torch.tensor([1.5, 0.8]).double()
        self.B = 1.3 * torch.linalg.qr(draw(FEATURES, LOWER)).Q
        self.a, self.b = draw(LOWER), draw(FEATURES)
        within = self.lower_scale**2 * torch.eye(LOWER).double()
        noise = self.scale**2 * torch.eye(FEATURES).double()
        # z₂ and x as one Gaussian, for q(z₂ | x) and for p(x).
        given_top = self.B @ within @ self.B.T + noise
        path = self.B @ self.A
        self.x_mean = self.B @ self.a + self.b
        self.x_covariance = path @ path.T + given_top
        self.to_top = torch.linalg.solve(self.x_covariance, path).T
        self.top_scale = (torch.eye(TOP).double() - self.to_top @ path).diagonal().sqrt()
        # z₁ and x given z₂, for q(z₁ | x, z₂).
        self.to_lower = torch.linalg.solve(given_top, self.B @ within).T
        self.posterior_scale = (within - self.to_lower @ self.B @ within).diagonal().sqrt()
        self.vae = self._vae()

    @torch.no_grad()
    def _vae(self) -> VAE:
        below, top = nn.Linear(TOP, 2 * LOWER), nn.Linear(FEATURES, 2 * TOP)
        both = nn.Linear(FEATURES + TOP, 2 * LOWER)
        decoder = nn.Linear(TOP + LOWER, FEATURES)
        conditional = TwoInputs(nn.Identity(), nn.Identity(), both)
        vae = VAE(
            HierarchicalPrior(StandardNormal(TOP), GaussianPosterior(below)),
            HierarchicalPosterior(GaussianPosterior(top), GaussianPosterior(conditional)),
            GaussianLikelihood(decoder, FEATURES, min_scale=0.1),
        ).double()
        for linear in (below, top, both, decoder):
            linear.weight.zero_()
        vae.likelihood.raw_scale.fill_(math.log(math.expm1(self.scale - 0.1)))
        decoder.weight[:, TOP:] = self.B
        decoder.bias.copy_(self.b)
        below.weight[:LOWER] = self.A
        below.bias.copy_(torch.cat([self.a, torch.full_like(self.a, self.lower_scale).log()]))
        top.weight[:TOP] = self.to_top
        log_scale = (self.widen * self.top_scale).log()
        top.bias.copy_(torch.cat([-self.to_top @ self.x_mean, log_scale]))
        # E[z₁ | x, z₂] = A z₂ + a + to_lower (x − B (A z₂ + a) − b).
        left = torch.eye(LOWER).double() - self.to_lower @ self.B
        both.weight[:LOWER] = torch.cat([self.to_lower, left @ self.A], dim=1)
        log_scale = (self.widen * self.posterior_scale).log()
        both.bias.copy_(torch.cat([left @ self.a - self.to_lower @ self.b, log_scale]))
        return vae

    def data(self, n: int) -> Tensor:
        """`n` examples of the model's own."""
        return MultivariateNormal(self.x_mean, self.x_covariance).sample((n,))

    def log_p(self, x: Tensor) -> Tensor:
        """The closed-form log p(x)."""
        return MultivariateNormal(self.x_mean, self.x_covariance).log_prob(x)

    def log_prior(self, z: Tensor) -> Tensor:
        """The closed-form log p(z₂, z₁), one Gaussian in TOP + LOWER dimensions."""
        mean = torch.cat([torch.zeros(TOP).double(), self.a])
        mix = torch.cat([torch.eye(TOP).double(), self.A])
        within = self.lower_scale**2 * torch.eye(LOWER).double()
        return MultivariateNormal(
            mean, mix @ mix.T + torch.block_diag(torch.zeros(TOP, TOP).double(), within)
        ).log_prob(z)

    @torch.no_grad()
    def kl(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both levels of KL(q(z | x) || p(z)) in closed form, the top first."""
        q = self.vae.posterior
        q_top = q.top(x)
        top = kl_divergence(q_top, self.vae.prior.top())
        scale = self.widen * self.posterior_scale
        # The two means of z₁ differ by shift(z₂), which is affine in z₂ ~ q(z₂ | x).
        slope = -self.to_lower @ self.B @ self.A
        at_mean = (x - self.x_mean) @ self.to_lower.T + q_top.mean @ slope.T
        square = at_mean**2 + (q_top.stddev**2) @ (slope**2).T
        ratio = (scale / self.lower_scale) ** 2
        lower = 0.5 * (ratio - 1 - ratio.log() + square / self.lower_scale**2).sum(-1)
        return top, lower


@pytest.fixture
def two_levels() -> type[TwoLevels]:
    return TwoLevels


@pytest.fixture
def zuko(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Zuko, whose import switches torch's validation off: for this test only."""
    monkeypatch.setattr(Distribution, "_validate_args", False)
    monkeypatch.setattr(Distribution, "arg_constraints", {})
    import zuko

    yield zuko
