"""What `torch.distributions` lacks."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
    constraints,
)

from .contract import (
    Region,
    Shape,
    check_support,
    check_value,
    described,
    family,
    rsample,
    supported,
)


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
        loc, scale = distribution.loc, distribution.scale
        noise = torch.randn((*sample_shape, *loc.shape), dtype=loc.dtype, device=loc.device)
        z = loc + noise * scale
    else:
        z = rsample(distribution, sample_shape)
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


class Chain(Distribution):
    """p(a) p(b | a) as one distribution over the concatenation [a, b] (equation `eq-chain`).

    The latents of a hierarchy are one vector: what takes a latent takes this one. It has no
    `mean`: that of b is an average over a, which has no closed form.
    """

    arg_constraints = {}  # noqa: RUF012  (torch's name and form)

    def __init__(
        self,
        first: Distribution,
        then: Callable[[Tensor], Distribution],
        event_size: int,
        validate_args: bool | None = None,
    ) -> None:
        """Chain `first`, event shape `(A,)`, and `then`.

        Args:
            first: p(a), batch shape `(N,)` or `()`.
            then: gives p(b | a), batch shape `(..., N)`, event shape `(B,)`, for a `(..., N, A)`.
            event_size: A + B.
            validate_args: whether `log_prob` looks at values; torch's default if None.
        """
        self.first = first
        self.then = then
        super().__init__(first.batch_shape, torch.Size([event_size]), validate_args)

    def expand(self, batch_shape: Shape, _instance: "Chain | None" = None) -> "Chain":
        """The same chain for a larger batch; `then` is told an a of that batch."""
        new: Chain = self._get_checked_instance(Chain, _instance)  # type: ignore[no-untyped-call]
        new.first, new.then = self.first.expand(torch.Size(batch_shape)), self.then
        super(Chain, new).__init__(new.first.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @cached_property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether both levels have it. The lower one is asked once, at one a."""
        if not self.first.has_rsample:
            return False
        cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            return self.then(self.first.sample()).has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """Where a lies in the support of its level, and b in that of its own at this a."""
        return Region(self._supported)

    def _supported(self, z: Tensor) -> Tensor:
        a, b = self._levels(z)
        return supported(self.first, a) & supported(self.then(a), b)

    def _levels(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # One z for the whole batch is one a for each p(b | a) of it.
        z = z.expand(torch.broadcast_shapes(z.shape[:-1], self.batch_shape) + z.shape[-1:])
        size = self.first.event_shape[0]
        return z[..., :size], z[..., size:]

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw a, then b given a: `sample_shape + (N, A + B)`; both levels must have `rsample`."""
        a = rsample(self.first, sample_shape)
        return torch.cat([a, rsample(self.then(a))], dim=-1)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """The same without gradients; neither level need be reparametrised."""
        a = self.first.sample(torch.Size(sample_shape))
        return torch.cat([a, self.then(a).sample()], dim=-1)

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """A sample and its log-density, one pass through each level."""
        a, log_a = rsample_and_log_prob(self.first, sample_shape)
        b, log_b = rsample_and_log_prob(self.then(a))
        return torch.cat([a, b], dim=-1), log_a + log_b

    def log_prob_parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both levels, log p(a) and log p(b | a), at z `(..., A + B)`: `(...)` each, in nats.

        Raises:
            InputError: z has another size; with `validate_args`, it has no density.
        """
        check_value(self, z)
        a, b = self._levels(z)
        below = self.then(a)
        if self._validate_args:
            check_support(self.first, a)
            check_support(below, b)
        return self.first.log_prob(a), below.log_prob(b)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z = [a, b] `(..., A + B)`, `(...)`, in nats: the sum of the parts."""
        log_a, log_b = self.log_prob_parts(z)
        return log_a + log_b

    def __repr__(self) -> str:
        return described(self, f"first={family(self.first)}")
