"""Checks of the exercises of chapter 8, latent diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, ask_twice, exercise, refuse, takes

Velocity = Callable[[Tensor, Tensor], Tensor]
Field = Callable[[Tensor, float], tuple[Tensor, Tensor]]


@exercise("8.1")
def check_matching(answer: Callable[[Velocity, Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check the loss of flow matching, equation `eq-flow-matching`.

    Args:
        answer: takes a velocity, from `(N, D)` and `(N,)` to `(N, D)`, codes and noise `(N, D)`
            and times `(N,)`; returns a scalar.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    codes, u = torch.randn(2, 6, 3, dtype=torch.float64, generator=random)
    codes = 2 * codes + 1
    t = torch.rand(6, dtype=torch.float64, generator=random)

    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def velocity(h: Tensor, t: Tensor) -> Tensor:
        h = takes(h, 3, "The velocity takes places of shape (N, D).")
        if not isinstance(t, Tensor) or t.numel() not in (1, len(h)):
            raise Hint("The velocity takes the places first, and then one time for each of them.")
        if t.ndim > 1:
            raise Hint(
                f"You gave the velocity times of shape {tuple(t.shape)}. It takes (N,): the line "
                "alone needs a second axis."
            )
        return weight * (h.sin() + t.reshape(-1, 1))

    def loss(halfway: Tensor, target: Tensor, at: Tensor = t) -> Tensor:
        return (velocity(halfway, at) - target).square().sum(-1).mean().detach()

    side = t[:, None]
    halfway, turned = (1 - side) * u + side * codes, side * u + (1 - side) * codes
    right = loss(halfway, codes - u)
    value = ask_twice(
        answer, velocity, codes, u, t, shape=(), hint="Noise and times are given."
    ).double()
    refuse(
        value.detach(),
        right,
        [
            (loss(halfway, u - codes), "The lines run from noise to codes: turn the difference."),
            (
                loss(turned, codes - u),
                "Your lines are at the code when t is 0. There the noise should be.",
            ),
            (
                loss(turned, u - codes),
                "You went from codes to noise all the way. At t = 1 stand the codes.",
            ),
            (loss(halfway, codes), "The target is the velocity of the line, not its end."),
            (right / 3, "You averaged over the D numbers of a code. They are summed."),
            (6 * right, "You summed over the codes. Their mean is asked for."),
            (
                (velocity(halfway, t) - codes + u).square().sum(-1).sqrt().mean().detach(),
                "Square the lengths, and take no root: a mean comes from squares.",
            ),
            (
                loss(u, codes - u),
                "You asked for the velocity at the noise, where the lines begin. Ask on the way.",
            ),
            (
                (velocity(halfway, t) - codes + u).abs().sum(-1).mean().detach(),
                "You summed the errors without their signs. Their squares are summed.",
            ),
            (
                (velocity(halfway, t) - codes + u).sum(-1).square().mean().detach(),
                "You sum over the numbers of a code first and square then.",
            ),
            (
                loss(halfway, codes + u),
                "You added the ends of the line. From one to the other leads their difference.",
            ),
            (
                loss(u + side * codes, codes - u),
                "Your noise does not fade: at t = 1 nothing of it is left.",
            ),
            (
                loss((1 - side).sqrt() * u + side.sqrt() * codes, codes - u),
                "Your way has roots in it, as a diffusion's may. These lines are straight.",
            ),
            (loss(codes, codes - u), "You asked for the velocity at the codes, not on the way."),
            (
                loss(halfway, codes - halfway),
                "You aim from the place on the way. The line's velocity is the same all along it.",
            ),
            (-right, "The sign is turned: an error is not negative."),
            (right / 2, "There is no ½ in (8.2)."),
            (loss(halfway, u), "The target is the velocity of the line, not its beginning."),
            (loss(halfway, side * (codes - u)), "The velocity is the same at all times."),
            (loss(halfway, codes - u, 1 - t), "You told the velocity the time that is left."),
            (
                (velocity(halfway, t) - codes + u).sum(-1).mean().detach(),
                "The error is not squared, so that its parts cancel.",
            ),
            (
                2 * right,
                "You summed over the codes and averaged over the D numbers. Turn it round.",
            ),
            (
                loss((u + codes) / 2, codes - u),
                "You took the middle of each line. The place on the way is that at t.",
            ),
            (
                loss(halfway, halfway),
                "The target is a velocity, and yours is the place on the way.",
            ),
            (
                loss(side * codes + (1 - side**2).sqrt() * u, codes - u),
                "Your way has roots in it, as a diffusion's may. These lines are straight.",
            ),
            (
                loss(turned, u - codes, 1 - t),
                "You turned time round: at t = 1 stand the codes, and the velocity leads there.",
            ),
        ],
    )
    if not value.requires_grad:
        raise Hint(
            "The number is right, but it has no gradient, and nothing could learn from it. Return "
            "the tensor, and compute it with gradients."
        )


@exercise("8.2")
def check_log_prob(answer: Callable[[Field, Tensor, int], Tensor], seed: int) -> None:
    """Check a log-density by plain steps back to the noise, equation `eq-continuous-flow`.

    Args:
        answer: takes a field, from h `(N, D)` and a time to the velocity `(N, D)` and its
            divergence `(N,)`, codes `(N, D)` and a number of steps; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(5, 2, dtype=torch.float64, generator=random)
    tilt = 0.5 * torch.randn(2, dtype=torch.float64, generator=random) + 1

    def field(h: Tensor, t: float) -> tuple[Tensor, Tensor]:
        h = takes(h, 2, "The field takes places of shape (N, D).")
        if not -1e-9 <= float(t) <= 1 + 1e-9:
            raise Hint(f"You asked for the field at t = {float(t):.3f}. Time runs from 0 to 1.")
        return (tilt * h).sin() * (1 + t), (tilt * (tilt * h).cos()).sum(-1) * (1 + t)

    def base(u: Tensor) -> Tensor:
        return -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)

    def follow(times: list[float], length: float) -> tuple[Tensor, Tensor]:
        """A step at each of the times: the place at the end, the sum of the divergences."""
        h, total = z, torch.zeros(5, dtype=torch.float64)
        for t in times:
            velocity, divergence = field(h, t)
            h, total = h - length * velocity, total + divergence
        return h, total

    def log_p(times: list[float], length: float) -> Tensor:
        u, total = follow(times, length)
        return base(u) - abs(length) * total

    def grid(count: int) -> list[float]:
        """Times from 1 to 0, both of them counted."""
        return [1 - k / (count - 1) for k in range(count)]

    steps, length = 4, 0.25
    back, ends = grid(steps + 1)[:-1], grid(steps + 1)[1:]
    u, total = follow(back, length)
    total = length * total
    leaps, along = follow(back, 1.0)
    at_z = [field(z, t) for t in back]
    forwards = [follow(times, -length) for times in (back, ends, back[::-1], ends[::-1])]
    last = field(follow(back[:-1], length)[0], back[-1])[1]
    late = sum(
        (field(follow(back[: k + 1], length)[0], back[k])[1] for k in range(steps)),
        torch.zeros(5, dtype=torch.float64),
    )
    halves = [t - length / 2 for t in back]
    runge, divergences = z, torch.zeros(5, dtype=torch.float64)
    for start, middle, end in zip(back, halves, ends, strict=True):
        v1, d1 = field(runge, start)
        v2, d2 = field(runge - length / 2 * v1, middle)
        v3, d3 = field(runge - length / 2 * v2, middle)
        v4, d4 = field(runge - length * v3, end)
        runge = runge - length / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        divergences = divergences + length / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    own_steps = [field(follow(back[:k], length)[0], back[k])[1] for k in range(steps)]
    off_by_one = (
        "A grid of `steps` times has one step fewer. Which times do `steps` steps begin at?"
    )
    refuse(
        ask(answer, field, z, steps, shape=(5,)).double(),
        base(u) - total,
        [
            (
                base(u) + total,
                "The divergence has the wrong sign: where points move apart, the density falls.",
            ),
            (base(u), "The divergence is missing."),
            (base(u) - steps * total, "You forgot the length of a step in the divergence."),
            (
                base(leaps) - length * along,
                "You forgot the length of a step in the move along the velocity.",
            ),
            (base(leaps) - along, "Neither the move nor the divergence knows how long a step is."),
            (
                base(z) - total,
                "You asked for the density of z under N(0, I). Which u is its noise?",
            ),
            (
                log_p(ends, length),
                "You asked for the field where a step ends. Take it where the step begins.",
            ),
            (
                log_p(ends[::-1], -length),
                "You followed the field forwards. From a code to its noise is backwards.",
            ),
            (
                log_p(ends[::-1], length),
                "You went back through space, but forwards through time: begin at t = 1.",
            ),
            (
                log_p(back, -length),
                "You went back through time, but forwards through space: against the velocity.",
            ),
            (log_p(grid(steps), length), off_by_one),
            (log_p(grid(steps), 1 / (steps - 1)), off_by_one),
            (log_p(grid(steps)[:-1], 1 / (steps - 1)), off_by_one),
            (
                log_p(grid(steps + 1), length),
                "That is one step too many: at t = 0 the noise is reached, and no step begins.",
            ),
            (
                log_p(grid(steps + 2)[:-1], 1 / (steps + 1)),
                "You took one step more, each of them shorter. There are `steps` of them.",
            ),
            (
                base(z - length * sum(v for v, _ in at_z)) - length * sum(d for _, d in at_z),
                "You asked for the field at z in every step. Each begins where the last one ended.",
            ),
            (
                base(u) + math.log(2 * math.pi) - total,
                "The constant of the Gaussian is missing, ½ log 2π for each number.",
            ),
            (total - base(u), "The sign is turned: a log-density is asked for, not a cost."),
            *(
                (
                    base(h) + length * along_h,
                    "Both parts are turned round: from a code to its noise it is against the "
                    "velocity, and the divergence is subtracted.",
                )
                for h, along_h in forwards
            ),
            (
                base(u) - length * last,
                "Only the last step's divergence is in it. Those of all steps add up.",
            ),
            (
                base(u) - length * late,
                "You asked for the divergence where a step ends. Take it where the step begins.",
            ),
            (base(z), "This is N(0, I) at z: neither the way back nor the divergence is in it."),
            (
                log_p([t - length / 2 for t in back], length),
                "You asked for the field in the middle of each step's time. Take its beginning.",
            ),
            (base(u) / 2 - total, "You averaged over the dimensions. Log-densities are summed."),
            (
                base(runge) - divergences,
                "You asked for the field four times a step, as the solver of the chapter does. A "
                "plain step asks for it once.",
            ),
            (
                log_p(back[:1], length),
                "You returned after the first step. There are `steps` of them.",
            ),
            (-total, "The divergences are there. Where is the log-density of the noise?"),
            (
                base(u) - sum((length * d).log1p() for d in own_steps),
                "You took the logarithm of each step's determinant. In continuous time, and in "
                "this exercise, the divergence itself is subtracted.",
            ),
            (base(u).sum() - total, "You summed the log-density of the noise over the codes, too."),
            (base(u) - total.sum(), "You summed the divergence over the codes, too."),
            (
                base(u) + 0.5 * math.log(2 * math.pi) - total,
                "The constant is there once for the whole event. Each of the D numbers brings its "
                "own.",
            ),
        ],
    )
