"""Priors p(z): modules whose call, `prior()`, returns a distribution over one latent `(D,)`."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from .errors import InputError


class StandardNormal(nn.Module):
    """N(0, I): the prior with nothing to learn."""

    zero: Tensor

    def __init__(self, features: int) -> None:
        """Set up the prior for latents of `features` = D dimensions."""
        super().__init__()
        if features < 1:
            raise InputError(f"a prior needs at least 1 feature, got {features}")
        # A buffer follows the module to its device and dtype; it is no part of the weights.
        self.register_buffer("zero", torch.zeros(features), persistent=False)

    def forward(self, context: None = None) -> Distribution:
        """Return p(z): batch shape `()`, event shape `(D,)`."""
        normal = Normal(self.zero, torch.ones_like(self.zero), validate_args=False)
        return Independent(normal, 1, validate_args=False)


class GaussianMixture(nn.Module):
    """A mixture of K diagonal Gaussians with learned weights, means and scales.

    The log-density is a log-sum-exp over components of whole D-dimensional densities, never
    one per dimension: that would be a product of D one-dimensional mixtures, with K to the
    power D modes. Costs O(S N K D) time and memory.
    """

    def __init__(self, features: int, components: int) -> None:
        """Set up `components` = K Gaussians over latents of `features` = D dimensions."""
        super().__init__()
        if features < 1 or components < 1:
            raise InputError(
                f"a mixture needs at least 1 feature and 1 component, got {features}, {components}"
            )
        self.loc = nn.Parameter(torch.randn(components, features))
        self.log_scale = nn.Parameter(torch.zeros(components, features))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, context: None = None) -> Distribution:
        """Return p(z): batch shape `()`, event shape `(D,)`."""
        normal = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        return MixtureSameFamily(
            Categorical(logits=self.logits, validate_args=False),
            Independent(normal, 1, validate_args=False),
            validate_args=False,
        )
