"""Likelihoods p(x | z): modules whose call, `likelihood(z)`, returns a distribution over data."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn import functional as F

from .arguments import SIZE, called, number, whole
from .errors import InputError


class BernoulliLikelihood(nn.Module):
    """Independent binary pixels: the network gives the logit of each pixel being 1."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap `net`, which maps `(..., D)` to `(..., X)` logits."""
        super().__init__()
        self.net = called(net, "net")

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z `(S, N, D)`: batch shape `(S, N)`, event shape `(X,)`."""
        bernoulli = Bernoulli(logits=self.net(z), validate_args=False)
        return Independent(bernoulli, 1, validate_args=False)


class GaussianLikelihood(nn.Module):
    """Independent Gaussian pixels: the mean from the network, one learned scale a pixel.

    The scale has a floor. Without one, a pixel that never varies would drive its scale to zero
    and its density to infinity, and the likelihood would say nothing about the other pixels.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import GaussianLikelihood, mlp
        >>> likelihood = GaussianLikelihood(mlp(2, [32], 64), features=64)
        >>> p_x = likelihood(torch.randn(5, 10, 2))
        >>> p_x.batch_shape, p_x.event_shape
        (torch.Size([5, 10]), torch.Size([64]))
    """

    def __init__(self, net: nn.Module, features: int, min_scale: float = 0.01) -> None:
        """Wrap `net`, which maps `(..., D)` to `(..., X)` means, X = `features`.

        Args:
            net: the decoder.
            features: the data size X.
            min_scale: the floor of the standard deviation, in the data's unit.

        Raises:
            InputError: `net` is no module, `min_scale` not positive and finite, or `features` not
                from 1 to a million.
        """
        super().__init__()
        features = whole(features, "features", most=SIZE)
        self.net = called(net, "net")
        self.min_scale = number(min_scale, "min_scale", positive=True)
        self.raw_scale = nn.Parameter(torch.full((features,), -1.0))

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z `(S, N, D)`: batch shape `(S, N)`, event shape `(X,)`.

        Raises:
            InputError: the network does not give one mean a feature.
        """
        loc = self.net(z)
        if loc.shape[-1] != len(self.raw_scale):
            raise InputError(
                f"the likelihood's network gives {loc.shape[-1]} numbers for "
                f"{len(self.raw_scale)} features: make them the same"
            )
        scale = self.min_scale + F.softplus(self.raw_scale)
        return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def extra_repr(self) -> str:
        """The size and the floor, for `print`."""
        return f"features={len(self.raw_scale)}, min_scale={self.min_scale}"
