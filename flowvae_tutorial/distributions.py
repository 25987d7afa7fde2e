"""What `torch.distributions` lacks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
    constraints,
)

from .errors import InputError

Shape = torch.Size | list[int] | tuple[int, ...]
# Pairs of a point and a component at once, for components that are no Gaussians: a gigabyte or so
# for the largest flow of the book.
AT_ONCE = 100_000


def rsample_and_log_prob(
    distribution: Distribution, sample_shape: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Draw a reparametrised sample together with its log-density, in one pass.

    A flow is cheap in one direction and may be costly in the other. Sampling first and asking
    for `log_prob` afterwards would invert the map just applied. This pushes base noise forward
    once and adds up the log-determinants on the way (equation `eq-change-of-variables`).

    Args:
        distribution: batch shape `(N,)`, event shape `(D,)`. Its own method
            `rsample_and_log_prob` is used if it has one.
        sample_shape: `(S,)` or `()`.

    Returns:
        The sample `(S, N, D)` and its log-density `(S, N)` in nats.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import GaussianPosterior, mlp, rsample_and_log_prob
        >>> posterior = GaussianPosterior(mlp(64, [32], 2 * 2))
        >>> z, log_q = rsample_and_log_prob(posterior(torch.rand(10, 64)), (5,))
        >>> z.shape, log_q.shape
        (torch.Size([5, 10, 2]), torch.Size([5, 10]))
    """
    own = getattr(distribution, "rsample_and_log_prob", None)
    if own is not None:
        z, log_prob = own(torch.Size(sample_shape))
        return z, log_prob
    if isinstance(distribution, TransformedDistribution):
        return _push_forward(distribution, sample_shape)
    if isinstance(distribution, Independent):
        z, log_prob = rsample_and_log_prob(distribution.base_dist, sample_shape)
        return z, _sum_rightmost(log_prob, distribution.reinterpreted_batch_ndims)
    if type(distribution) is Normal:
        # torch fills a tensor in place, to which `vmap` cannot give other noise each example.
        noise = torch.randn(
            (*sample_shape, *distribution.batch_shape),
            dtype=distribution.loc.dtype,
            device=distribution.loc.device,
        )
        z = distribution.loc + noise * distribution.scale
    else:
        z = distribution.rsample(sample_shape)
    return z, distribution.log_prob(z)


def _push_forward(
    distribution: TransformedDistribution, sample_shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    transforms = distribution.transforms
    # A transform may change how many dimensions form one event: reshaping does, for example.
    event_dim = len(distribution.event_shape) - sum(
        t.codomain.event_dim - t.domain.event_dim for t in transforms
    )
    z, log_prob = rsample_and_log_prob(distribution.base_dist, sample_shape)
    for transform in transforms:
        u = z
        if hasattr(transform, "call_and_ladj"):
            z, ladj = transform.call_and_ladj(u)
        else:
            z = transform(u)
            ladj = transform.log_abs_det_jacobian(u, z)
        log_prob = log_prob - _sum_rightmost(ladj, event_dim - transform.domain.event_dim)
        event_dim += transform.codomain.event_dim - transform.domain.event_dim
    return z, log_prob


def _sum_rightmost(value: Tensor, dims: int) -> Tensor:
    return value.sum(dim=tuple(range(-dims, 0))) if dims > 0 else value


class Mixture(Distribution):
    """A mixture of K distributions of one family (equation `eq-mixture`).

    Its density is the weighted sum of whole D-dimensional densities. One log-sum-exp for each
    dimension would be a product of D one-dimensional mixtures, another distribution.

    For diagonal Gaussians, N log-densities cost two matrix products and O(N K + K D) memory.
    Any other component is asked for its own `log_prob` at z of shape `(..., K, D)`, which costs
    O(N K D) memory and K times the component's time.
    """

    arg_constraints = {}  # noqa: RUF012  (torch's name and form)
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, components: Distribution, logits: Tensor) -> None:
        """Mix `components`, batch shape `(K,)`, event shape `(D,)`.

        Args:
            components: the K distributions.
            logits: `(K,)`, the logarithms of the weights up to a constant.

        Raises:
            InputError: the numbers of components and of weights differ.
        """
        if components.batch_shape != logits.shape or logits.ndim != 1:
            raise InputError(
                f"a mixture needs one weight a component: {tuple(components.batch_shape)} "
                f"components, {tuple(logits.shape)} weights"
            )
        self.components = components
        self.logits = logits
        super().__init__(torch.Size(), components.event_shape, validate_args=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z `(..., D)`, `(...)`, in nats."""
        log_weights = self.logits.log_softmax(dim=0)
        base = getattr(self.components, "base_dist", None)
        if isinstance(self.components, Independent) and type(base) is Normal:
            return _gaussian_mixture_log_prob(z, base.loc, base.scale, log_weights)
        each = z.reshape(-1, 1, z.shape[-1]).expand(-1, len(log_weights), -1)
        parts = [
            (self.components.log_prob(points) + log_weights).logsumexp(dim=-1)
            # A gradient would keep every part, so that parts would save nothing.
            for points in ([each] if torch.is_grad_enabled() else each.split(self._at_once()))
        ]
        return torch.cat(parts).reshape(z.shape[:-1])

    def _at_once(self) -> int:
        return max(1, AT_ONCE // len(self.logits))

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw a component by its weight, then a point from it: `sample_shape + (D,)`."""
        shape = torch.Size(sample_shape)
        chosen = Categorical(logits=self.logits, validate_args=False).sample(shape)
        base = getattr(self.components, "base_dist", None)
        if isinstance(self.components, Independent) and type(base) is Normal:
            return torch.normal(base.loc[chosen], base.scale[chosen])
        # A distribution cannot be indexed: draw from every component, keep the chosen one.
        parts = []
        for some in chosen.reshape(-1, 1, 1).split(self._at_once()):
            every = self.components.sample(some.shape[:1])
            parts.append(every.gather(1, some.expand(-1, -1, every.shape[-1])).squeeze(1))
        return torch.cat(parts).reshape(shape + self.event_shape)


def _gaussian_mixture_log_prob(
    z: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor
) -> Tensor:
    """The log-density log Σₖ wₖ N(z; locₖ, scaleₖ²) for z `(..., D)`, loc and scale `(K, D)`.

    (z − μ)² / σ² = z² / σ² − 2 z μ / σ² + μ² / σ² turns the distances of all z to all
    components into one matrix product, with no `(..., K, D)` tensor. The three terms cancel: in
    float32 that loses hundredths of a nat at σ = 0.03 and several nats at 0.003. So the product
    and the maximum are taken in float64. What is left is at most 0, and its exponential needs no
    more than float32. A device without float64 (MPS) subtracts first: it takes O(N K D) memory
    and, on a CPU at N = 100, K = 500, D = 40, about eight times the time.
    """
    dtype = z.dtype
    if z.device.type == "mps":
        distance = (((z.unsqueeze(-2) - loc) / scale) ** 2).sum(-1)
        constant = scale.log().sum(-1) + 0.5 * loc.shape[-1] * math.log(2 * math.pi)
        return (log_weights - constant - 0.5 * distance).logsumexp(dim=-1)
    z, loc, scale = z.double(), loc.double(), scale.double()
    precision = scale**-2
    weighted = loc * precision
    constant = (
        log_weights.double()
        - 0.5 * (loc * weighted).sum(-1)
        - scale.log().sum(-1)
        - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
    )
    parts = torch.cat([z**2, z], dim=-1) @ torch.cat([-0.5 * precision, weighted], dim=-1).T
    each = parts + constant
    top = each.amax(dim=-1, keepdim=True).detach()
    return ((each - top).to(dtype).exp().sum(-1).log() + top.squeeze(-1)).to(dtype)


class Chain(Distribution):
    """p(a) p(b | a) as one distribution over the concatenation [a, b] (equation `eq-chain`).

    The latents of a hierarchy are one vector: what takes a latent takes this one.
    """

    arg_constraints = {}  # noqa: RUF012  (torch's name and form)
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, first: Distribution, then: Callable[[Tensor], Distribution], event_size: int
    ) -> None:
        """Chain `first`, event shape `(A,)`, and `then`.

        Args:
            first: p(a), batch shape `(N,)` or `()`.
            then: gives p(b | a), batch shape `(..., N)`, event shape `(B,)`, for a `(..., N, A)`.
            event_size: A + B.
        """
        self.first = first
        self.then = then
        super().__init__(first.batch_shape, torch.Size([event_size]), validate_args=False)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw a, then b given a: `sample_shape + (N, A + B)`."""
        a = self.first.rsample(sample_shape)
        return torch.cat([a, self.then(a).rsample()], dim=-1)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """The same without gradients; `first` need not be reparametrised."""
        a = self.first.sample(torch.Size(sample_shape))
        return torch.cat([a, self.then(a).sample()], dim=-1)

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """A sample and its log-density, one pass through each level."""
        a, log_a = rsample_and_log_prob(self.first, sample_shape)
        b, log_b = rsample_and_log_prob(self.then(a))
        return torch.cat([a, b], dim=-1), log_a + log_b

    def log_prob_parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both levels, log p(a) and log p(b | a), at z `(..., A + B)`: `(...)` each, in nats."""
        size = self.first.event_shape[0]
        a, b = z[..., :size], z[..., size:]
        return self.first.log_prob(a), self.then(a).log_prob(b)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z = [a, b] `(..., A + B)`, `(...)`, in nats."""
        log_a, log_b = self.log_prob_parts(z)
        return log_a + log_b

    @property
    def mean(self) -> Tensor:
        """The mean of a, then the mean of b at that a, which approximates the mean of b."""
        a = self.first.mean
        return torch.cat([a, self.then(a).mean], dim=-1)
