"""Invertible maps z = f(u) from base noise to latents, in the order in which they build up.

One convention throughout: `ladj` is log|det ∂f/∂u|, of the map from noise to latent, whichever
way it was computed. So log q(z) = log p(u) − ladj, always (equation `eq-change-of-variables`).

Example:
    >>> import torch
    >>> from flowvae_tutorial.networks import mlp
    >>> from flowvae_tutorial.transforms import AffineCoupling
    >>> f = AffineCoupling(2, mlp(2, [8], 2 * 3))  # 2 numbers pass, 3 are changed
    >>> u = torch.randn(10, 5)
    >>> z, ladj = f.call_and_ladj(u)
    >>> back, same = f.inverse_and_ladj(z)
    >>> torch.allclose(back, u, atol=1e-4), torch.allclose(same, ladj, atol=1e-4)
    (True, True)
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from .errors import InputError
from .splines import LOG_SCALE_BOUND, knots_from, rational_quadratic_spline


class Bijection(Transform):
    """A map of vectors that gives its value and its log-determinant in one pass.

    A subclass defines `call_and_ladj` and `inverse_and_ladj`; torch's own methods follow.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """From noise u `(..., D)` to z = f(u) `(..., D)` and log|det ∂f/∂u| `(...)`."""
        raise NotImplementedError

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """From z `(..., D)` back to u `(..., D)` and log|det ∂f/∂u| at that u `(...)`."""
        raise NotImplementedError

    def _call(self, u: Tensor) -> Tensor:
        return self.call_and_ladj(u)[0]

    def _inverse(self, z: Tensor) -> Tensor:
        return self.inverse_and_ladj(z)[0]

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        """log|det ∂f/∂u| at u `(..., D)`, `(...)`: a forward pass, z is not used."""
        return self.call_and_ladj(u)[1]

    def with_cache(self, cache_size: int = 1) -> "Bijection":
        """A copy that keeps the z of its last u, while its parameters stay what they are."""
        if cache_size == self._cache_size:
            return self
        new = copy.copy(self)
        Transform.__init__(new, cache_size)
        return new

    # torch would also serve z where it was found without gradients, and for the inverse of z the
    # old u, to which no gradient flows from z.
    def __call__(self, u: Tensor) -> Tensor:
        """f(u), `(..., D)`."""
        z: Tensor = (super().__call__ if torch.is_grad_enabled() else self._call)(u)
        return z

    def _inv_call(self, z: Tensor) -> Tensor:
        return self._inverse(z)


class ElementwiseAffine(Bijection):
    """z = loc + exp(log_scale) u: each dimension shifted and scaled by itself."""

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        """Set up the map from `loc` and `log_scale`, `(D,)` each."""
        super().__init__()
        self.loc = loc
        self.log_scale = log_scale

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, then shift."""
        return self.loc + self.log_scale.exp() * u, self._ladj(u)

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back, then scale back."""
        return (z - self.loc) * (-self.log_scale).exp(), self._ladj(z)

    def _ladj(self, like: Tensor) -> Tensor:
        return self.log_scale.sum(-1).expand(like.shape[:-1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(D={len(self.loc)})"


class Permutation(Bijection):
    """Dimensions in another order; the determinant is 1 or −1."""

    def __init__(self, order: Tensor, back: Tensor | None = None) -> None:
        """Set up the map with `order` `(D,)`: z[i] = u[order[i]].

        `back` is `order.argsort()`, for a caller who has it at hand. Without it, an order that
        does not hold each of 0, …, D − 1 once raises an `InputError`.
        """
        super().__init__()
        if back is None and (order.ndim != 1 or sorted(order.tolist()) != [*range(len(order))]):
            raise InputError(f"an order must hold each of 0, …, D − 1 once, got {order.tolist()}")
        self.order = order
        self.back = order.argsort() if back is None else back

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Reorder."""
        return u.index_select(-1, self.order), u.new_zeros(u.shape[:-1])

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Put back into the first order."""
        return z.index_select(-1, self.back), z.new_zeros(z.shape[:-1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(D={len(self.order)})"


class Coupling(Bijection):
    """[a, b] ↦ [a, g(b; θ(a))]: one part passes unchanged and says what to do with the other.

    ∂z/∂u is triangular, so its determinant is the product of the slopes of g, and the inverse
    needs θ(a) and g⁻¹ alone, never θ⁻¹ (equation `eq-coupling`). Dinh et al. (2017).
    A subclass says what g is; g acts on each dimension of b by itself.
    """

    def __init__(self, size: int, net: Callable[[Tensor], Tensor]) -> None:
        """Split vectors after `size` numbers; `net` maps a `(..., size)` to θ `(..., P)`."""
        super().__init__()
        self.size = size
        self.net = net

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the network, then g."""
        a, b = u.split([self.size, u.shape[-1] - self.size], dim=-1)
        b, log_slope = self.forward(b, self.net(a))
        return _joined(a, b), log_slope.sum(-1)

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the network, then g⁻¹."""
        a, b = z.split([self.size, z.shape[-1] - self.size], dim=-1)
        b, log_slope = self.backward(b, self.net(a))
        return _joined(a, b), log_slope.sum(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"

    @staticmethod
    def forward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """g(b; θ) and the logarithm of its slope, `(..., B)` each."""
        raise NotImplementedError

    @staticmethod
    def backward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """g⁻¹(b; θ) and the logarithm of the slope of g there, `(..., B)` each."""
        raise NotImplementedError


def _joined(a: Tensor, b: Tensor) -> Tensor:
    # A context may have given b more batch dimensions than the latents came with.
    return torch.cat([a.expand(*b.shape[:-1], a.shape[-1]), b], dim=-1)


class AffineCoupling(Coupling):
    """g(b) = t + exp(s) b, with s bounded by a tanh so that no slope overflows or vanishes.

    The network gives 2B numbers: B shifts t, B raw log-scales.
    """

    @staticmethod
    def forward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, then shift."""
        shift, log_scale = _shift_and_log_scale(theta)
        return shift + log_scale.exp() * b, log_scale

    @staticmethod
    def backward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back, then scale back."""
        shift, log_scale = _shift_and_log_scale(theta)
        return (b - shift) * (-log_scale).exp(), log_scale


def _shift_and_log_scale(theta: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = theta.chunk(2, dim=-1)
    return shift, LOG_SCALE_BOUND * raw.tanh()


class SplineCoupling(Coupling):
    """g is a rational-quadratic spline in a box and the identity outside. Durkan et al. (2019).

    The network gives B (3 BINS − 1) numbers: for each dimension of b the widths and heights of
    the bins and the slopes at the knots between them.
    """

    @staticmethod
    def forward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the spline."""
        return rational_quadratic_spline(b, *knots_from(theta))

    @staticmethod
    def backward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Invert the spline."""
        return rational_quadratic_spline(b, *knots_from(theta), inverse=True)


class Composition(Bijection):
    """One map after another, the first one first: log-determinants add up."""

    def __init__(self, transforms: Sequence[Bijection]) -> None:
        """Compose at least one map; an `InputError` if one is no `Bijection`."""
        super().__init__()
        self.transforms = tuple(transforms)
        if not self.transforms or not all(isinstance(t, Bijection) for t in self.transforms):
            kinds = ", ".join(type(transform).__name__ for transform in self.transforms)
            raise InputError(
                f"a Composition needs Bijections, got {kinds or 'nothing'}: torch's "
                "ComposeTransform takes other transforms"
            )

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Through all maps, first to last."""
        each = []
        for transform in self.transforms:
            u, ladj = transform.call_and_ladj(u)
            each.append(ladj)
        return u, sum(each[1:], each[0])

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Back through all maps, last to first."""
        each = []
        for transform in reversed(self.transforms):
            z, ladj = transform.inverse_and_ladj(z)
            each.append(ladj)
        return z, sum(each[1:], each[0])

    def __repr__(self) -> str:
        kinds = Counter(type(transform).__name__ for transform in self.transforms)
        return f"Composition({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
