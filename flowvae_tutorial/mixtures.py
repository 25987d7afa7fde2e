"""Mixtures of distributions over vectors.

Example:
    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> from flowvae_tutorial import Mixture
    >>> five = Independent(Normal(torch.randn(5, 2), 0.1), 1)
    >>> p = Mixture(five, logits=torch.zeros(5))
    >>> p.log_prob(p.sample((10,))).shape
    torch.Size([10])
"""

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, constraints

from .contract import (
    Region,
    Shape,
    check_support,
    check_value,
    described,
    family,
    no_rsample,
)
from .errors import InputError

# Pairs of a point and a component at once, for components that are no Gaussians: a gigabyte or so
# for the largest flow of the book.
AT_ONCE = 100_000


class Mixture(Distribution):
    """A mixture of K distributions of one family (equation `eq-mixture`).

    Its density is the weighted sum of whole D-dimensional densities. One log-sum-exp for each
    dimension would be a product of D one-dimensional mixtures, another distribution.

    For diagonal Gaussians, N log-densities cost two matrix products and O(N K + K D) memory.
    Any other component is asked for its own `log_prob` at z of shape `(..., K, D)`, which costs
    O(N K D) memory and K times the component's time.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  (torch's name and form)
    has_rsample = False

    def __init__(
        self, components: Distribution, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        """Mix `components`, batch shape `(K,)`, event shape `(D,)`.

        Args:
            components: the K distributions.
            logits: `(K,)`, the logarithms of the weights up to a constant.
            validate_args: whether values are looked at, here and in `log_prob`; torch's default
                if None.

        Raises:
            InputError: the numbers of components and of weights differ, or the components are no
                distributions of vectors.
        """
        if components.batch_shape != logits.shape or logits.ndim != 1:
            raise InputError(
                f"a mixture needs one weight a component: {tuple(components.batch_shape)} "
                f"components, {tuple(logits.shape)} weights"
            )
        if len(components.event_shape) != 1:
            raise InputError(
                "a mixture needs components over vectors, event shape (D,), got event shape "
                f"{tuple(components.event_shape)}: Independent(…, 1) makes vectors of numbers"
            )
        self.components = components
        self.logits = logits
        super().__init__(torch.Size(), components.event_shape, validate_args)

    def expand(self, batch_shape: Shape, _instance: "Mixture | None" = None) -> "Mixture":
        """The same mixture for each member of a batch, over the same components."""
        new: Mixture = self._get_checked_instance(Mixture, _instance)  # type: ignore[no-untyped-call]
        new.components, new.logits = self.components, self.logits
        shape = torch.empty(self.batch_shape).expand(torch.Size(batch_shape)).shape
        super(Mixture, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> constraints.Constraint:
        """That of the components; where each has another, what lies in any of them."""
        each: constraints.Constraint = self.components.support  # type: ignore[assignment]
        if each.check(self.logits.new_zeros(self.event_shape)).ndim == 0:
            return each
        return Region(lambda z: each.check(z.unsqueeze(-2)).any(dim=-1))

    @property
    def mean(self) -> Tensor:
        """The weighted mean of the components' means, `batch_shape + (D,)`."""
        mean = self.logits.softmax(dim=0) @ self.components.mean
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of each dimension, `batch_shape + (D,)`: within the components and between them."""
        weights, means = self.logits.softmax(dim=0), self.components.mean
        variance = weights @ (self.components.variance + (means - weights @ means) ** 2)
        return variance.expand(self.batch_shape + self.event_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z `(..., D)`, `(...)`, in nats.

        Raises:
            InputError: z has another size; with `validate_args`, it has no density.
        """
        check_value(self, z)
        if self._validate_args:
            check_support(self, z)
        return self._log_prob(z).expand(torch.broadcast_shapes(z.shape[:-1], self.batch_shape))

    def _log_prob(self, z: Tensor) -> Tensor:
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
        """Draw a component by its weight, then a point: `sample_shape + batch_shape + (D,)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
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

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A mixture has none: no gradient passes the choice of a component.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(no_rsample(self))

    def __repr__(self) -> str:
        return described(self, f"components={len(self.logits)} {family(self.components)}")


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
