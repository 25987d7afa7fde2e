"""Posteriors q(z | x): modules whose call, `posterior(x)`, returns a distribution over latents."""

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from .errors import InputError


class GaussianPosterior(nn.Module):
    """N(μ(x), diag σ(x)²) with μ and log σ from one network.

    The network gives the logarithm of the standard deviation, not of the variance.
    Kingma and Welling (2014), appendix C.2.
    """

    def __init__(self, net: nn.Module) -> None:
        """Wrap `net`, which maps `(N, X)` to `(N, 2D)`: D means, then D log-scales."""
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Distribution:
        """Return q(z | x) for x `(N, X)`: batch shape `(N,)`, event shape `(D,)`.

        Raises:
            InputError: the network's last dimension is odd, so it is no mean and log-scale.
        """
        output = self.net(x)
        if output.shape[-1] % 2:
            raise InputError(
                f"the posterior's network gives {output.shape[-1]} numbers; it must give 2D, "
                "D means and D log-scales"
            )
        loc, log_scale = output.chunk(2, dim=-1)
        return Independent(
            Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False
        )
