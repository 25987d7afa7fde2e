"""Posteriors q(z | x): modules whose call, `posterior(x)`, returns a distribution over latents."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from .arguments import called, interval
from .distributions import Chain
from .errors import InputError
from .flows import CouplingFlow, Flow
from .networks import UNBOUNDED, soft_clamp

Bounds = tuple[float, float]


class GaussianPosterior(nn.Module):
    """N(μ(x), diag σ(x)²) with μ and log σ from one network.

    The network gives the logarithm of the standard deviation, not of the variance.
    Kingma and Welling (2014), appendix C.2.
    """

    def __init__(self, net: nn.Module, log_scale_bounds: Bounds | None = None) -> None:
        """Wrap `net`, which maps `(N, X)` to `(N, 2D)`: D means, then D log-scales.

        Args:
            net: the encoder.
            log_scale_bounds: where `soft_clamp` keeps log σ. By default nowhere, unless a
                `VampPrior` shares this posterior: it then sets `networks.LOG_SCALE_BOUNDS`.
                `networks.UNBOUNDED` is nowhere even so.

        Raises:
            InputError: `net` is no module, or the bounds are the wrong way round or not finite.
        """
        super().__init__()
        self.net = called(net, "net")
        self.log_scale_bounds = _looked_at(log_scale_bounds)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | x) for x `(N, X)`: batch shape `(N,)`, event shape `(D,)`.

        A network of several inputs takes them all: q(z₁ | x, z₂) is `conditional(x, z2)`.

        Raises:
            InputError: the network's last dimension is odd, so it is no mean and log-scale.
        """
        return _diagonal_gaussian(self.net(*context), self.log_scale_bounds)

    def extra_repr(self) -> str:
        """The bounds of log σ, for `print`."""
        return f"log_scale_bounds={self.log_scale_bounds}"


def _looked_at(bounds: Bounds | None) -> Bounds | None:
    return None if bounds is None else interval(bounds, "log_scale_bounds", unbounded=True)


def _diagonal_gaussian(output: Tensor, bounds: Bounds | None) -> Distribution:
    if output.shape[-1] % 2:
        raise InputError(
            f"the posterior's network gives {output.shape[-1]} numbers; it must give 2D, "
            "D means and D log-scales"
        )
    loc, log_scale = output.chunk(2, dim=-1)
    if bounds not in (None, UNBOUNDED):
        log_scale = soft_clamp(log_scale, *bounds)
    return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False)


class FlowPosterior(nn.Module):
    """z = f(u; μ(x)) with u ~ N(μ(x), diag σ(x)²): a flow told where it is (`eq-flow-posterior`).

    The flow is conditioned on the deterministic mean μ(x), not on the noisy u, so that it knows
    which posterior it bends; one small flow serves all x.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import CouplingFlow, FlowPosterior, mlp
        >>> posterior = FlowPosterior(mlp(64, [32], 2 * 2), CouplingFlow(2, context=2))
        >>> posterior(torch.rand(10, 64)).sample((5,)).shape
        torch.Size([5, 10, 2])
    """

    def __init__(
        self, net: nn.Module, flow: CouplingFlow, log_scale_bounds: Bounds | None = None
    ) -> None:
        """Wrap `net`, `(N, X)` to `(N, 2D)`, D means and D log-scales, and a flow with context D.

        `log_scale_bounds` are those of u, as in `GaussianPosterior`.

        Raises:
            InputError: one is no module, the flow's context is not as wide as its latents, or the
                bounds are wrong.
        """
        super().__init__()
        if called(flow, "flow").context != flow.features:
            raise InputError(
                f"the flow of a posterior is conditioned on the mean: it needs "
                f"context={flow.features}, as many as its features, got {flow.context}"
            )
        self.net = called(net, "net")
        self.flow = flow
        self.log_scale_bounds = _looked_at(log_scale_bounds)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | x) for x `(N, X)`: batch shape `(N,)`, event shape `(D,)`.

        A network of several inputs takes them all, as in `GaussianPosterior`.

        Raises:
            InputError: the network's last dimension is not twice the flow's features.
        """
        base = _diagonal_gaussian(self.net(*context), self.log_scale_bounds)
        if base.event_shape[0] != self.flow.features:
            raise InputError(
                f"the posterior's network gives {2 * base.event_shape[0]} numbers; for a flow of "
                f"{self.flow.features} features it must give {2 * self.flow.features}"
            )
        return Flow(base, self.flow.transform(base.mean), validate_args=False)

    def extra_repr(self) -> str:
        """The bounds of log σ, for `print`."""
        return f"log_scale_bounds={self.log_scale_bounds}"


class HierarchicalPosterior(nn.Module):
    """q(z₂ | x) q(z₁ | x, z₂) over [z₂, z₁] (equation `eq-hierarchical-posterior`).

    The top level is drawn from the picture directly and the lower one given both, as in
    Tomczak and Welling (2018), section 4.
    """

    def __init__(self, top: nn.Module, conditional: nn.Module) -> None:
        """Chain `top`, which gives q(z₂ | x) for x, and `conditional`, q(z₁ | x, z₂) for both."""
        super().__init__()
        self.top = called(top, "top")
        self.conditional = called(conditional, "conditional")
        self._event_size: int | None = None

    def forward(self, x: Tensor) -> Distribution:
        """Return q(z | x) for x `(N, X)`: batch shape `(N,)`, event shape `(D₂ + D₁,)`."""
        top: Distribution = self.top(x)
        if self._event_size is None:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                below: Distribution = self.conditional(x, top.sample())
            self._event_size = top.event_shape[0] + below.event_shape[0]
        then = partial(self.conditional, x)
        return Chain(top, then, self._event_size, validate_args=False)

    def extra_repr(self) -> str:
        """The size, for `print`, once a call has shown it."""
        return "" if self._event_size is None else f"features={self._event_size}"
