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

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

# exp(±2): a coupling stretches each dimension at most 7.4 times.
LOG_SCALE_BOUND = 2.0
# The box of a spline, its bins a dimension, the least share of the box that a bin has.
BOX = 5.0
BINS = 8
LEAST_BIN = 0.02


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


class Permutation(Bijection):
    """Dimensions in another order; the determinant is 1 or −1."""

    def __init__(self, order: Tensor, back: Tensor | None = None) -> None:
        """Set up the map with `order` `(D,)`: z[i] = u[order[i]].

        `back` is `order.argsort()`, for a caller who has it at hand.
        """
        super().__init__()
        self.order = order
        self.back = order.argsort() if back is None else back

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Reorder."""
        return u.index_select(-1, self.order), u.new_zeros(u.shape[:-1])

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Put back into the first order."""
        return z.index_select(-1, self.back), z.new_zeros(z.shape[:-1])


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
        return rational_quadratic_spline(b, *spline_knots(_raw_knots(theta)))

    @staticmethod
    def backward(b: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Invert the spline."""
        return rational_quadratic_spline(b, *spline_knots(_raw_knots(theta)), inverse=True)


def _raw_knots(theta: Tensor) -> Tensor:
    # Knots come first: along a last dimension this short, softmax and sums are slow.
    raw: Tensor = theta.unflatten(-1, (3 * BINS - 1, -1))
    return raw.movedim(-2, 0)


def spline_knots(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The knots of a spline from unconstrained numbers; zeros give the identity.

    Args:
        raw: `(3 BINS − 1, ...)`: BINS widths, BINS heights, BINS − 1 logarithms of slopes.

    Returns:
        corners `(2, BINS + 1, ...)`, positions along u and z from −BOX to BOX, and slopes
        `(BINS + 1, ...)`, which are 1 at both ends, where the spline meets the identity.
    """
    shares, log_slopes = raw.split([2 * BINS, BINS - 1])
    share = LEAST_BIN + (1 - LEAST_BIN * BINS) * shares.unflatten(0, (2, BINS)).softmax(1)
    inner = 2 * BOX * share[:, :-1].cumsum(1) - BOX
    end = torch.full_like(inner[:, :1], BOX)
    one = torch.ones_like(log_slopes[:1])
    corners = torch.cat([-end, inner, end], dim=1)
    return corners, torch.cat([one, (LOG_SCALE_BOUND * log_slopes.tanh()).exp(), one])


def rational_quadratic_spline(
    value: Tensor, corners: Tensor, slopes: Tensor, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """A monotone spline of quotients of quadratics, or its inverse (equation `eq-spline`).

    Gregory and Delbourgo (1982), Durkan et al. (2019). Outside the knots it is the identity.

    Args:
        value: `(...)`, u, or z for the inverse.
        corners: `(2, K + 1, ...)`, the knots' positions along u and along z, ascending, with
            the same ends for both.
        slopes: `(K + 1, ...)`, the spline's positive slopes at the knots; 1 at the ends.
        inverse: from z to u.

    Returns:
        z (or u) and log dz/du there, `(...)` each.
    """
    along = corners[int(inverse)].detach()
    inside = (value >= along[0]) & (value <= along[-1])
    # Both branches of a `where` get gradients: the one not taken must stay finite, too.
    at = value.clamp(along[0], along[-1])
    left = (at >= along[1:-1]).sum(0)
    table = torch.cat([corners, slopes.unsqueeze(0)])
    table = table.expand(*table.shape[:2], *left.shape)
    ends = table.gather(1, torch.stack([left, left + 1]).expand(3, 2, *left.shape))
    (u0, u1), (z0, z1), (slope0, slope1) = (pair.unbind() for pair in ends.unbind())
    width, height = u1 - u0, z1 - z0
    slope = height / width
    bend = slope0 + slope1 - 2 * slope
    if inverse:
        rise = (at - z0) / height
        b = slope0 - rise * bend
        c = slope * rise
        # The form of the root that does not cancel. Rounding may push the root's argument
        # below zero, and the slope of a root at zero is infinite.
        t = 2 * c / (b + (b**2 + 4 * (slope - b) * c).clamp(min=1e-30).sqrt())
    else:
        t = (at - u0) / width
    s = t * (1 - t)
    bottom = slope + bend * s
    result = u0 + width * t if inverse else z0 + height * (slope * t**2 + slope0 * s) / bottom
    top = slope1 * t**2 + 2 * slope * s + slope0 * (1 - t) ** 2
    log_slope = (top * (slope / bottom) ** 2).log()
    return torch.where(inside, result, value), torch.where(inside, log_slope, 0.0)


class Composition(Bijection):
    """One map after another, the first one first: log-determinants add up."""

    def __init__(self, transforms: Sequence[Bijection]) -> None:
        """Compose at least one map."""
        super().__init__()
        self.transforms = tuple(transforms)

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
