"""Checks of the exercises of chapter 4, flow priors."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, close, exercise, refuse, takes

Net = Callable[[Tensor], tuple[Tensor, Tensor]]


@exercise("4.1")
def check_log_prob(answer: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check the log-density of a shifted and stretched Gaussian.

    Args:
        answer: takes z `(N, D)`, the shift m and the log-scale s, `(D,)` each; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(7, 3, dtype=torch.float64, generator=random)
    m, s = torch.tensor([[1.0, -2.0, 0.5], [0.7, -0.4, 1.1]]).double()
    m = m + 0.2 * torch.randn(3, dtype=torch.float64, generator=random)

    def base(u: Tensor) -> Tensor:
        return (-0.5 * u**2 - 0.5 * math.log(2 * math.pi)).sum(-1)

    u = (z - m) * (-s).exp()
    refuse(
        ask(answer, z, m, s, shape=(7,)).double(),
        base(u) - s.sum(),
        [
            (base(u), "The log-determinant is missing."),
            (base(u) + s.sum(), "The log-determinant has the wrong sign: stretching thins out."),
            (base(u) - 2 * s.sum(), "You counted the log-determinant twice."),
            (
                base(u) - 7 * s.sum(),
                "You summed s over the examples, too. The map is the same for each of them, and "
                "so is its one log-determinant.",
            ),
            (base(u) - s.exp().sum(), "You subtracted the sum of the slopes. Where is their log?"),
            (
                base(u) - s.abs().sum(),
                "You took the logarithms without their signs. The absolute value is that of the "
                "determinant.",
            ),
            (base(u) - s.mean(), "You averaged the log-slopes. How does a volume grow?"),
            (
                base(u) - 3 * s.sum(),
                "The log-determinant is subtracted once for each dimension. It is there once.",
            ),
            (
                base((z - m) / s) - s.sum(),
                "You divided by s. The map stretches by something else.",
            ),
            (base((z - m) * s.exp()) - s.sum(), "You stretched again where u was stretched."),
            (s.sum() - base(u), "The sign is turned: a log-density is asked for, not a cost."),
            (base(z) - s.sum(), "You put z into the base density. Which u did this z come from?"),
            (
                base(m + s.exp() * z) - s.sum(),
                "You went through the map once more. From z to u is the other direction.",
            ),
            (
                base((z - m) * s.exp()) + s.sum(),
                "You took the map for its inverse throughout. The text goes from u to z by (4.1).",
            ),
            ((base(u) - s.sum()) / 3, "You took a mean over the dimensions. They add up."),
            ((base(u) - s.sum()).exp(), "This is the density; its logarithm is asked for."),
            (base(z * (-s).exp() - m) - s.sum(), "Undo the shift before the stretch."),
            (
                (-0.5 * u**2).sum(-1) - s.sum(),
                "The constant of the Gaussian is missing: one for each dimension.",
            ),
            (
                (-0.5 * u**2).sum(-1) - 0.5 * math.log(2 * math.pi) - s.sum(),
                "The constant is there once for the whole event. Each of the D numbers brings its "
                "own.",
            ),
            (
                (-0.5 * u**2 - math.log(2 * math.pi)).sum(-1) - s.sum(),
                "The constant with 2π lacks its ½: it comes from a square root.",
            ),
            (base(u) - 0.5 * (u**2).sum(-1) - s.sum(), "The square lacks its factor ½."),
            (
                (-0.5 * u - 0.5 * math.log(2 * math.pi)).sum(-1) - s.sum(),
                "u is not squared in the density.",
            ),
            (
                base((z - m) * (-2 * s).exp()) - 2 * s.sum(),
                "The variance stands where the standard deviation belongs.",
            ),
            (
                base((z - m) * (-s / 2).exp()) - s.sum() / 2,
                "You read s as a log-variance. It is the logarithm of the slope.",
            ),
            (base(u) - s.sum() / 2, "You have half of the log-determinant."),
            (
                base(u) - s.sum().exp(),
                "You subtracted the determinant. What stands there is its logarithm.",
            ),
            (base((z + m) * (-s).exp()) - s.sum(), "You added the shift once more."),
            (base(z * (-s).exp()) - s.sum(), "The shift is still there."),
            (base(z - m) - s.sum(), "The shift is undone in u, and the stretch is not."),
            (base(z), "This is N(0, I) at z: neither the map nor its determinant is in it."),
            (
                base(-s * (z - m)) - s.sum(),
                "You multiplied by −s. The stretch is an exponential.",
            ),
        ],
    )


@exercise("4.2")
def check_invert(
    answer: Callable[[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]], Tensor], seed: int
) -> None:
    """Check the inverse of an affine coupling.

    Args:
        answer: takes z `(N, 4)` and a network, from `(N, 2)` to shift and log-scale, `(N, 2)`
            each; returns `(N, 4)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z, weight = (torch.randn(n, 4, dtype=torch.float64, generator=random) for n in (6, 2))

    def net(a: Tensor) -> tuple[Tensor, Tensor]:
        a = takes(a, 2, "The network takes the half that stays, of shape (N, 2).")
        t, s = (a @ weight).sin().chunk(2, dim=-1)
        return t, s

    a, b = z.chunk(2, dim=-1)
    t, s = net(a)
    t_of_b, s_of_b = net(b)
    b_flipped, a_flipped = z.flip(-1).chunk(2, dim=-1)
    t_flipped, s_flipped = net(b_flipped)
    refuse(
        ask(answer, z, net, shape=(6, 4)).double(),
        torch.cat([a, (b - t) / s.exp()], dim=-1),
        [
            (
                torch.cat([a, t + s.exp() * b], dim=-1),
                "That is the coupling itself. Undo it.",
            ),
            (
                torch.cat([a, b / s.exp() - t], dim=-1),
                "You divided first. The shift came last, so it is undone first.",
            ),
            (
                torch.cat([a, (b - t_of_b) / s_of_b.exp()], dim=-1),
                "The network looks at the part that stays, not at the part that changes.",
            ),
            (
                torch.cat([(a - t_of_b) / s_of_b.exp(), b], dim=-1),
                "You changed the first two numbers. They are the ones that stay.",
            ),
            (torch.cat([a, b / s.exp()], dim=-1), "The shift is still there."),
            (torch.cat([a, b - t], dim=-1), "The shift is undone, and the stretch is not."),
            (
                torch.cat([(a - t) / s.exp(), (b - t) / s.exp()], dim=-1),
                "You changed all four numbers. The first two stay.",
            ),
            (
                torch.cat([b_flipped, (a_flipped - t_flipped) / s_flipped.exp()], dim=-1),
                "You turned the order round. Between two couplings that helps; here is one alone.",
            ),
            (torch.cat([a, (b - t) / s], dim=-1), "The network gives the logarithm of the scale."),
            (torch.cat([a, (b - t) * s.exp()], dim=-1), "You stretched again instead of back."),
            (torch.cat([(b - t) / s.exp(), a], dim=-1), "The two parts have changed places."),
            (torch.cat([a, (b + t) / s.exp()], dim=-1), "You added the shift once more."),
            (
                torch.cat([a, (b - s) / t.exp()], dim=-1),
                "You took the shift for the log-scale: the shift comes first.",
            ),
            (
                torch.cat([a, (b - t) / (2 * s.tanh()).exp()], dim=-1),
                "You bounded the log-scale, as TinyFlow does. This coupling takes it as it is.",
            ),
            (z, "Nothing has changed: that is z as it was given."),
            (torch.cat([a, (t - b) / s.exp()], dim=-1), "You subtracted z from the shift."),
            (
                torch.cat([(a - t) / s.exp(), b], dim=-1),
                "You changed the first two numbers. They are the ones that stay.",
            ),
        ],
    )


@exercise("4.6")
def check_one_by_one(answer: Callable[[Tensor, Net], Tensor], seed: int) -> None:
    """Check the inverse of an inverse autoregressive map.

    Args:
        answer: takes z `(N, D)` and a network, from `(N, D)` to shift and log-scale, `(N, D)`
            each, those of a number from the numbers before it; returns `(N, D)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)

    def numbers_and_net(size: int) -> tuple[Tensor, Net]:
        weight = torch.randn(2, size, size, dtype=torch.float64, generator=random).triu(1)
        bias = torch.randn(2, 1, size, dtype=torch.float64, generator=random)

        def net(u: Tensor) -> tuple[Tensor, Tensor]:
            u = takes(u, size, "The network takes all numbers at once, of shape (N, D).")
            t, s = (u @ weight + bias).sin()
            return t, s

        return torch.randn(6, size, dtype=torch.float64, generator=random), net

    z, net = numbers_and_net(4)

    def passes(count: int, start: Tensor) -> Tensor:
        u = start
        for _ in range(count):
            t, s = net(u)
            u = (z - t) / s.exp()
        return u

    zero = torch.zeros_like(z)
    t, s = net(z)
    added, divided, bare, twice = zero, zero, zero, zero
    unshifted, unstretched, again, later = zero, zero, z, zero
    for _ in range(4):
        (t_a, s_a), (t_d, s_d) = net(added), net(divided)
        (t_b, s_b), (t_w, s_w) = net(bare), net(twice)
        added, divided = (z + t_a) / s_a.exp(), z / s_d.exp() - t_d
        bare, twice = (z - t_b) / s_b, (z - t_w) * s_w.exp()
        unshifted, unstretched = z / net(unshifted)[1].exp(), z - net(unstretched)[0]
        (t_a, s_a), (t_l, s_l) = net(again), net(later)
        again = (again - t_a) / s_a.exp()
        later = torch.cat([z[:, :1], ((z - t_l) / s_l.exp())[:, 1:]], dim=-1)
    forwards, rows = zero, zero.clone()
    for i in range(4):
        (t_f, s_f), (t_r, s_r) = net(forwards), net(rows)
        forwards = t_f + s_f.exp() * z
        rows[i] = ((z - t_r) / s_r.exp())[i]
    refuse(
        ask(answer, z, net, shape=(6, 4)).double(),
        passes(4, zero),
        [
            (t + s.exp() * z, "That is the map itself, at z. Undo it."),
            (passes(1, z), "You asked the network about z. It wants the numbers before the map."),
            (passes(1, zero), "One pass gets the first number right. How many are there?"),
            (passes(2, zero), "Two passes are missing: each makes one more number right."),
            (passes(3, zero), "One pass is missing: each makes one more number right."),
            (passes(3, z), "One pass is missing: each makes one more number right."),
            (
                again,
                "You undo the map of what is undone already. z stays as it is; what you know of u "
                "is what grows.",
            ),
            (
                later,
                "The first number has a shift and a scale, too: those of no numbers before it.",
            ),
            (unshifted, "The shift is still there."),
            (unstretched, "The shift is undone, and the stretch is not."),
            (added, "You added the shift once more."),
            (divided, "You divided first. The shift came last, so it is undone first."),
            (bare, "The network gives the logarithm of the scale."),
            (twice, "You stretched again instead of back."),
            (forwards, "You go through the map in each pass. Undo it: from z to u."),
            (rows, "`u[i]` is an example. Number i of all examples is `u[:, i]`."),
        ],
    )
    five, wider = numbers_and_net(5)
    found = ask(answer, five, wider, shape=(6, 5)).double()
    t, s = wider(found)
    if not close(t + s.exp() * found, five):
        raise Hint("Right for four numbers. With five it is not: how many passes does D ask for?")
