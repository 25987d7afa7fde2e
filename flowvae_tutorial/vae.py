"""The one model class of the book: a VAE is a prior, a posterior and a likelihood."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from .arguments import weight, whole
from .distributions import rsample_and_log_prob
from .errors import InputError, check_data, may_look_at_values
from .networks import evaluating, modules_of
from .refinement import refine

# Latents decoded at once by `log_marginal`: more would not be faster and would not fit a laptop.
CHUNK = 10_000


class ELBO(NamedTuple):
    """The two terms of the evidence lower bound, `(S, N)` each, in nats per example."""

    reconstruction: Tensor
    """log p(x | z), higher is better."""
    kl: Tensor
    """log q(z | x) − log p(z), a one-sample estimate of the KL divergence; it can be negative."""

    @property
    def value(self) -> Tensor:
        """The bound itself, reconstruction − kl, `(S, N)`."""
        return self.reconstruction - self.kl


class VAE(nn.Module):
    """A variational autoencoder made of three distributions.

    - `prior()` returns p(z): batch shape `()`, event shape `(D,)`.
    - `posterior(x)` returns q(z | x) for x `(N, X)`: batch shape `(N,)`, event shape `(D,)`.
    - `likelihood(z)` returns p(x | z) for z `(S, N, D)`: batch shape `(S, N)`, event shape `(X,)`.

    Each is a module; any object with that call signature fits. A prior that works with modules of
    the other two names them in a tuple `shares`. Kingma and Welling (2014).

    Example:
        >>> import torch
        >>> from flowvae_tutorial import VAE, GaussianLikelihood, GaussianPosterior, StandardNormal
        >>> encoder, decoder = torch.nn.Linear(64, 2 * 2), torch.nn.Linear(2, 64)
        >>> likelihood = GaussianLikelihood(decoder, features=64)
        >>> vae = VAE(StandardNormal(2), GaussianPosterior(encoder), likelihood)
        >>> x = torch.rand(10, 64)
        >>> vae.elbo(x, num_samples=5).value.shape
        torch.Size([5, 10])
        >>> vae.log_marginal(x, num_samples=100).shape
        torch.Size([10])
        >>> vae.sample(3).shape
        torch.Size([3, 64])
    """

    built_from: dict[str, Any] | None = None
    """What `build` made it from, which a file of its weights holds; None for one made by hand."""

    def __init__(self, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module) -> None:
        """Put the three together.

        Raises:
            InputError: they do not fit, or the prior mixes another posterior than this one.
        """
        super().__init__()
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood
        self.features, self._support = _fitted(prior, posterior, likelihood)

    def __setattr__(self, name: str, value: Any) -> None:
        """Exchange a part, for one that fits the two that stay."""
        parts = ("prior", "posterior", "likelihood")
        if name in parts and "features" in self.__dict__:
            new = {part: getattr(self, part) for part in parts} | {name: value}
            self.features, self._support = _fitted(**new)
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, of a module too one of whose methods is a part: `eval` then reaches it."""
        for module in modules_of(self.prior, self.posterior, self.likelihood):
            module.training = mode
        return super().train(mode)

    def _check(self, x: Tensor, num_samples: int = 1) -> int:
        if torch.compiler.is_compiling():  # it would guard every module for the look at one
            return num_samples
        check_data(x, self.features, like=next(self.parameters(), None), support=self._support)
        return whole(num_samples, "num_samples")

    def elbo(self, x: Tensor, num_samples: int = 1) -> ELBO:
        """Estimate both terms of the evidence lower bound (equation `eq-elbo`).

        Args:
            x: `(N, X)`.
            num_samples: S, posterior samples per example. All S N latents are decoded at once, as
                a gradient needs it: 10 kB each for MNIST and 17 with one, 1.7 GB for S N = 10⁵.

        Returns:
            reconstruction and kl, `(S, N)` each, in nats per example.

        Raises:
            InputError: x has the wrong shape, dtype or values, or `num_samples` is no count.
        """
        num_samples = self._check(x, num_samples)
        z, log_q = rsample_and_log_prob(self.posterior(x), (num_samples,))
        kl = log_q - self.prior().log_prob(z)
        return ELBO(self.likelihood(z).log_prob(x), kl)

    def loss(self, x: Tensor, beta: float = 1.0) -> Tensor:
        """Minus the ELBO with its KL term weighted by `beta`, averaged over x `(N, X)`: a scalar.

        Equation `eq-beta`; nats per example at `beta=1`. Its gradient is unbiased and
        without noise where the posterior is exact (equation `eq-path`, Roeder et al. 2017).
        """
        self._check(x)
        q = self.posterior(x)
        z, log_q = rsample_and_log_prob(q, (1,))
        score = q.log_prob(z.detach())  # the part of the gradient whose mean is zero
        kl = log_q + (score.detach() - score) - self.prior().log_prob(z)
        loss: Tensor = weight(beta, "beta") * kl - self.likelihood(z).log_prob(x)
        return loss.mean()

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        """The loss: what `torch.compile`, DistributedDataParallel and Lightning call."""
        return self.loss(x, beta)

    @torch.no_grad()
    def log_marginal(self, x: Tensor, num_samples: int = 5000) -> Tensor:
        """Estimate log p(x), `(N,)`, in nats, by importance sampling (equation `eq-importance`).

        Samples come from q(z | x). The estimate is never above log p(x) on average, and rises to
        it as `num_samples` grows (Burda et al. 2016); memory does not grow: it works in chunks.

        Args:
            x: `(N, X)`.
            num_samples: S, posterior samples per example.

        Raises:
            InputError: as for `elbo`, or the estimate is NaN for an example.
        """
        num_samples = self._check(x, num_samples)
        prior = self.prior()
        parts = [self._log_mean_weight(rows, prior, num_samples) for rows in x.split(CHUNK)]
        estimate = torch.cat(parts)
        if may_look_at_values(estimate) and len(bad := estimate.isnan().nonzero()):
            raise InputError(
                f"log_marginal is NaN for {len(bad)} of {len(x)} examples, x[{bad[0].item()}] is "
                "the first: the posterior or the weights are not finite there, as can happen for "
                "inputs unlike any training data; leave these out"
            )
        return estimate

    def _log_mean_weight(self, x: Tensor, prior: Distribution, num_samples: int) -> Tensor:
        posterior = self.posterior(x)
        total = x.new_full((len(x),), -math.inf)
        at_once = max(1, CHUNK // len(x))
        for done in range(0, num_samples, at_once):
            z, log_q = rsample_and_log_prob(posterior, (min(at_once, num_samples - done),))
            log_weight = self.likelihood(z).log_prob(x) + prior.log_prob(z) - log_q
            total = torch.logaddexp(total, log_weight.logsumexp(dim=0))
        return total - math.log(num_samples)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        mean: bool = False,
        *,
        refine_steps: int = 0,
        refine_lr: float = 0.1,
        anchor: float = 0.1,
    ) -> Tensor:
        """Draw `n` examples `(n, X)` from the model.

        Args:
            n: how many, a whole number from 1.
            mean: give the likelihood's means and not draws from it.
            refine_steps: steps of `refine` under the prior, between drawing and decoding.
            refine_lr: their size.
            anchor: how hard each latent is held where it was drawn.
        """
        prior, n = self.prior(), whole(n, "n")
        z = prior.sample((n,))
        if refine_steps:
            z = refine(z, prior.log_prob, steps=refine_steps, lr=refine_lr, anchor=anchor)
        p_x: Distribution = self.likelihood(z.unsqueeze(0))
        return (p_x.mean if mean else p_x.sample()).squeeze(0)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The likelihood's mean at one posterior sample of each example, `(N, X)` to `(N, X)`."""
        self._check(x)
        p_x: Distribution = self.likelihood(self.posterior(x).sample((1,)))
        return p_x.mean.squeeze(0)

    def extra_repr(self) -> str:
        """The data size X, for `print`."""
        return f"features={self.features}"


@torch.no_grad()
def _fitted(
    prior: nn.Module, posterior: nn.Module, likelihood: nn.Module
) -> tuple[int, constraints.Constraint]:
    """Send one latent and one example through, so that parts that do not fit fail here."""
    owned = set(modules_of(prior, posterior, likelihood))
    # Modules that the prior only borrows are trained, moved and saved with their owner.
    borrowed = (module for part in modules_of(prior) for module in getattr(part, "shares", ()))
    if any(isinstance(module, nn.Module) and module not in owned for module in borrowed):
        raise InputError(
            "the prior mixes another posterior than the VAE's, which would not be trained: give "
            "both the same module, and build a new VAE to exchange the two"
        )
    # In training mode batch normalisation refuses a single example, and learns from others.
    with evaluating(prior, posterior, likelihood), torch.random.fork_rng(devices=[]):
        p_z = prior()
        if p_z.batch_shape or len(p_z.event_shape) != 1:
            raise InputError(
                f"the prior has batch shape {tuple(p_z.batch_shape)} and event shape "
                f"{tuple(p_z.event_shape)}: make them () and (D,), as Independent(…, 1) does"
            )
        z = p_z.sample((1, 1))
        latent = tuple(z.shape[2:])
        try:
            p_x = likelihood(z)
        except RuntimeError as error:
            refused = f"the likelihood does not take the prior's latents of shape {latent}: {error}"
            raise InputError(refused) from error
        event = tuple(p_x.event_shape)
        if p_x.batch_shape != (1, 1) or len(p_x.event_shape) != 1:
            raise InputError(
                f"for latents of shape {tuple(z.shape)} the likelihood has batch shape "
                f"{tuple(p_x.batch_shape)} and event shape {event}: make them (S, N) and (X,), as "
                "Independent(…, 1) does"
            )
        try:
            q_z = posterior(z.new_zeros(1, *event))
        except RuntimeError as error:
            refused = f"the posterior does not take the likelihood's data of shape {event}: {error}"
            raise InputError(refused) from error
        if q_z.event_shape != latent:
            raise InputError(
                f"the posterior's latents have shape {tuple(q_z.event_shape)}, the prior's "
                f"{latent}: make them the same size D"
            )
        return event[0], p_x.support
