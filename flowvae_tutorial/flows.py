"""Normalizing flows: a simple distribution pushed through an invertible map with parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution

from .arguments import SIZE, whole, widths
from .contract import Shape, check_value, described, family, rsample
from .errors import InputError, may_look_at_values
from .networks import Conditioner
from .splines import BINS
from .transforms import (
    AffineCoupling,
    Bijection,
    Composition,
    ElementwiseAffine,
    Permutation,
    SplineCoupling,
)


class Flow(TransformedDistribution):
    """The distribution of z = f(u) for u from `base` (equation `eq-change-of-variables`).

    `rsample_and_log_prob(flow)` costs one forward pass and no inverse; `log_prob` one inverse
    pass. torch's own `log_prob` would run f⁻¹ and then f once more for the log-determinant.
    """

    def __init__(
        self, base: Distribution, transform: Bijection, validate_args: bool | None = None
    ) -> None:
        """Push `base`, batch shape `(N,)` or `()` and event shape `(D,)`, through `transform`.

        `validate_args` says whether `log_prob` looks at values; None is torch's default.

        Raises:
            InputError: no `Bijection`, or a base over something else than vectors.
        """
        if not isinstance(transform, Bijection) or len(base.event_shape) != 1:
            raise InputError(
                f"a flow needs a base over vectors and a Bijection, got {type(transform).__name__} "
                f"and event shape {tuple(base.event_shape)}: torch's TransformedDistribution takes "
                "other bases and transforms"
            )
        super().__init__(base, [transform], validate_args)
        self.transform = transform

    def expand(self, batch_shape: Shape, _instance: "Flow | None" = None) -> "Flow":
        """The same flow for a larger batch."""
        new: Flow = self._get_checked_instance(Flow, _instance)  # type: ignore[no-untyped-call]
        new.transform = self.transform
        super().expand(torch.Size(batch_shape), new)  # type: ignore[no-untyped-call]
        return new

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw from the base, which must have `rsample`, and push forward."""
        return self.transform(rsample(self.base_dist, sample_shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z `(..., D)`, `(...)`, in nats.

        Raises:
            InputError: z has another size; with `validate_args`, it has no density.
        """
        check_value(self, z)
        u, ladj = self.transform.inverse_and_ladj(z)
        log_p: Tensor = self.base_dist.log_prob(u)
        return log_p - ladj

    def __repr__(self) -> str:
        return described(self, f"base={family(self.base_dist)}, transform={self.transform}")


# Each is a network; a sample goes through all of them, one after the other.
MOST_TRANSFORMS = 1000


class _StandardNormal(Independent):  # type: ignore[type-arg]
    """N(0, I), whose log-density need not look at means and scales."""

    def log_prob(self, u: Tensor) -> Tensor:
        log_p = -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))


def standard_normal(zero: Tensor) -> Independent:  # type: ignore[type-arg]
    """N(0, I) over vectors of the last dimension of `zero`, whose other dimensions are a batch."""
    normal = Normal(zero, torch.ones_like(zero), validate_args=False)
    return _StandardNormal(normal, 1, validate_args=False)


def _check_finite(value: Tensor, name: str) -> None:
    # The sum is finite if all values are, unless it overflows: only then look at each.
    if not value.sum().isfinite() and not value.isfinite().all():
        raise InputError(f"{name} has NaN or infinite values: a flow's inputs must be finite")


class CouplingFlow(nn.Module):
    """N(0, I) pushed through couplings: a prior, or given a context a conditional distribution.

    Couplings alternate with permutations, and an elementwise affine map ends the flow: a spline
    cannot leave its box, and with no coupling at all the flow is one diagonal Gaussian. A flow
    starts as the identity. Dinh et al. (2017), Durkan et al. (2019).

    Example:
        >>> import torch
        >>> from flowvae_tutorial import CouplingFlow
        >>> prior = CouplingFlow(2, kind="spline")
        >>> p = prior()
        >>> p.log_prob(p.sample((10,))).shape
        torch.Size([10])
        >>> conditional = CouplingFlow(2, context=3)
        >>> conditional(torch.randn(10, 3)).batch_shape
        torch.Size([10])
    """

    kind: str
    orders: Tensor
    orders_back: Tensor

    def __init__(
        self,
        features: int,
        context: int = 0,
        transforms: int = 4,
        hidden: Sequence[int] = (64, 64),
        kind: Literal["affine", "spline"] = "affine",
    ) -> None:
        """Set up the flow.

        Args:
            features: D.
            context: the width C of the context; 0 for a flow without one.
            transforms: how many couplings.
            hidden: the widths of each coupling's network.
            kind: of the couplings.

        Raises:
            InputError: an unknown kind, or sizes that make no flow.
        """
        super().__init__()
        if kind not in ("affine", "spline"):
            raise InputError(f"no coupling of kind {kind!r}: choose 'affine' or 'spline'")
        features = whole(features, "features", most=SIZE)
        context = whole(context, "context", least=0, most=SIZE)
        transforms = whole(transforms, "transforms", least=0, most=MOST_TRANSFORMS)
        hidden = widths(hidden, "hidden", least=1)
        if features < 2 and transforms > 0:
            raise InputError(
                "a coupling needs at least 2 features, one part to look at and one to change, "
                f"got {features}; transforms=0 gives a flow without couplings"
            )
        self.features = features
        self.context = context
        self.kind = kind
        self.size = features // 2
        self.nets = nn.ModuleList(self._network(hidden) for _ in range(transforms))
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        # Drawn at random, so it belongs to the weights.
        self.register_buffer("orders", _alternating_orders(features, transforms))
        self.register_buffer("orders_back", self.orders.argsort(-1))

    def transform(self, context: Tensor | None = None) -> Bijection:
        """The map f from noise to latents, for `context` `(N, C)` if the flow has one.

        Raises:
            InputError: a context is missing, not wanted, not finite or of the wrong width.
        """
        self._check(context)
        permutations = list(map(Permutation, self.orders, self.orders_back))
        maps: list[Bijection] = []
        for permutation, net in zip(permutations, self.nets, strict=False):
            maps += [permutation, self._map(net(context))]
        if maps:
            maps.append(permutations[-1])
        return Composition([*maps, ElementwiseAffine(self.loc, self.log_scale)])

    def forward(self, context: Tensor | None = None) -> Distribution:
        """The flow's distribution, batch shape `()`, or `(N,)` for a context `(N, C)`."""
        transform = self.transform(context)
        shape = (() if context is None else context.shape[:-1]) + self.loc.shape
        return Flow(standard_normal(self.loc.new_zeros(shape)), transform, validate_args=False)

    def extra_repr(self) -> str:
        """The sizes, for `print`."""
        return (
            f"features={self.features}, context={self.context}, transforms={len(self.nets)}, "
            f"kind={self.kind}"
        )

    def _network(self, hidden: tuple[int, ...]) -> Conditioner:
        each = 2 if self.kind == "affine" else 3 * BINS - 1
        changed = self.features - self.size
        return Conditioner(self.size, self.context, hidden, each * changed)

    def _map(self, net: Callable[[Tensor], Tensor]) -> Bijection:
        coupling = AffineCoupling if self.kind == "affine" else SplineCoupling
        return coupling(self.size, net)

    def _check(self, context: Tensor | None) -> None:
        if context is None and self.context:
            raise InputError(f"this flow needs a context of shape (N, {self.context}), got none")
        if context is None:
            return
        if not self.context:
            raise InputError("this flow takes no context: build it with context=C for one")
        if context.shape[-1] != self.context:
            raise InputError(
                f"the context must have shape (N, {self.context}), got {tuple(context.shape)}"
            )
        if may_look_at_values(context) and not context.requires_grad:
            _check_finite(context, "the context")


def _alternating_orders(features: int, transforms: int) -> Tensor:
    """The order before each coupling, relative to the one before, and what undoes them all.

    Couplings come in pairs: a random order, then the same with its halves swapped, so that two
    couplings change every dimension.
    """
    arrangements: list[Tensor] = []
    for index in range(transforms):
        swapped = index % 2 == 1
        arrangements.append(
            arrangements[-1].roll(features // 2) if swapped else torch.randperm(features)
        )
    relative, now = [], torch.arange(features)
    for order in [*arrangements, torch.arange(features)]:
        relative.append(now.argsort()[order])
        now = order
    return torch.stack(relative)
