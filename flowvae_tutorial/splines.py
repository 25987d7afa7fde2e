"""Monotone splines of one number, from unconstrained parameters.

Example:
    >>> import torch
    >>> from flowvae_tutorial.splines import BINS, rational_quadratic_spline, spline_knots
    >>> corners, slopes = spline_knots(torch.randn(3 * BINS - 1, 10))  # ten splines
    >>> u = torch.randn(10)
    >>> z, log_slope = rational_quadratic_spline(u, corners, slopes)
    >>> back, _ = rational_quadratic_spline(z, corners, slopes, inverse=True)
    >>> torch.allclose(back, u, atol=1e-4)
    True
"""

import torch
from torch import Tensor

# exp(±2): no slope is above 7.4 or below 1 / 7.4.
LOG_SCALE_BOUND = 2.0
# The box of a spline, its bins a dimension, the least share of the box that a bin has.
BOX = 5.0
BINS = 8
LEAST_BIN = 0.02


def knots_from(theta: Tensor) -> tuple[Tensor, Tensor]:
    """The knots of B splines from a network's output `(..., B (3 BINS − 1))`."""
    # Knots come first: along a last dimension this short, softmax and sums are slow.
    raw: Tensor = theta.unflatten(-1, (3 * BINS - 1, -1))
    return spline_knots(raw.movedim(-2, 0))


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
