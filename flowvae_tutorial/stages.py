"""Models in two stages: encoder and decoder first, and then the prior of their codes.

Example:
    >>> from flowvae_tutorial import build, fit
    >>> from flowvae_tutorial.data import load
    >>> data = load("rings")
    >>> first = build("gaussian", data)
    >>> history = fit(first, data, epochs=1)
    >>> vae = build("two-stage-flow-matching-prior", data, first=first)
    >>> history = fit(vae, data, epochs=1)  # of the prior alone
    >>> vae.posterior is first.posterior
    True
"""

from torch import Tensor

from .flow_matching import FlowMatchingPrior
from .vae import VAE

# Noise, times and codes for one picture and step: they cost little, and the regression is noisy.
DRAWS = 32


class MatchedVAE(VAE):
    """A VAE whose prior learns by flow matching, the codes of its posterior being held."""

    prior: FlowMatchingPrior

    def loss(self, x: Tensor, beta: float = 1.0) -> Tensor:
        """The flow-matching loss of `DRAWS` codes of each x `(N, X)`: a scalar, and no bound."""
        self._check(x)
        return self.prior.matching_loss(self.posterior(x).sample((DRAWS,)))


def on_first_stage(vae: VAE, first: VAE) -> VAE:
    """The prior of `vae` with the posterior and the likelihood of `first`, which learn no more."""
    held = first.posterior.requires_grad_(False), first.likelihood.requires_grad_(False)
    kind = MatchedVAE if isinstance(vae.prior, FlowMatchingPrior) else VAE
    both = kind(vae.prior.to(next(first.parameters()).device), *held)
    if vae.built_from is not None:
        ends = (first.built_from or vae.built_from)["log_scale_bounds"]
        both.built_from = vae.built_from | {"log_scale_bounds": ends}
    return both
