"""Checks of the exercises of chapter 6, refinement."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Unnamed, ask, ask_twice, close, exercise, refuse, takes

LogDensity = Callable[[Tensor], Tensor]


def _log_prob(z: Tensor) -> Tensor:
    """A density whose gradient is known, and differs from latent to latent."""
    z = takes(z, 3, "log p takes latents, of shape (N, D).")
    return -0.25 * z.square().square().sum(-1) + z[:, 0]


def _gradient(z: Tensor) -> Tensor:
    return torch.cat([1 - z[:, :1] ** 3, -(z[:, 1:] ** 3)], dim=1)


@exercise("6.1")
def check_step(
    answer: Callable[[Tensor, Tensor, LogDensity, float, float], Tensor], seed: int
) -> None:
    """Check one step of refinement (`eq-refinement`).

    Args:
        answer: takes latents and their starts `(N, D)`, log p, the step size and the anchor;
            returns the latents after the step, `(N, D)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z, start = torch.randn(2, 4, 3, dtype=torch.float64, generator=random)
    lr, anchor = 0.1, 0.3
    climb, pull = _gradient(z), z - start
    target = z + lr * (climb - 2 * anchor * pull)
    value = ask(answer, z, start, _log_prob, lr, anchor, shape=(4, 3)).detach()
    pull_of_one = torch.zeros_like(z)
    pull_of_one[0] = pull[0]
    climb_of_one = torch.zeros_like(z)
    climb_of_one[0] = climb[0]
    unsquared = pull / pull.norm(dim=-1, keepdim=True)
    refuse(
        value.double(),
        target,
        [
            (z, "The latents have not moved."),
            (
                z + lr / len(z) * (climb - 2 * anchor * pull),
                "You took the gradient of a mean over the batch. A latent's step must not depend "
                "on how many others there are.",
            ),
            (
                z + lr / len(z) * climb - lr * 2 * anchor * pull,
                "The gradient of log p comes from a mean over the batch. What should stand there?",
            ),
            (
                z + lr * (climb + 2 * anchor * pull),
                "The anchor pushes the latents away from their start: look at its sign.",
            ),
            (
                z + lr * (climb - anchor * pull),
                "The anchor pulls half as hard as it should. Differentiate the square.",
            ),
            (
                z + lr * (climb - 4 * anchor * pull),
                "The anchor pulls twice as hard as it should. How often do you count the 2 of the "
                "square?",
            ),
            (
                z + lr * (climb - 2 * len(z) * anchor * pull),
                "The anchor's part is summed over the batch twice, so each latent is pulled for "
                "all.",
            ),
            (
                z + lr * (climb - 2 / 3 * anchor * pull),
                "The anchor weighs the mean square of the coordinates. A squared distance is "
                "their sum.",
            ),
            (
                z + lr * climb - lr * 2 * anchor * (pull + lr * climb),
                "You moved by log p first and took the anchor's pull there. Both belong to the "
                "latent before the step.",
            ),
            (z + lr * climb, "Where is the anchor?"),
            (z - lr * 2 * anchor * pull, "Where is log p?"),
            (
                z - lr * (climb - 2 * anchor * pull),
                "You went downhill in both terms: U is to grow.",
            ),
            (
                z + lr * (-climb - 2 * anchor * pull),
                "You went downhill in log p, and only the anchor is right.",
            ),
            (z + climb - 2 * anchor * pull, "The step size is missing in front of both parts."),
            (
                z + lr * climb - 2 * anchor * pull,
                "The step size is missing in front of the anchor's part.",
            ),
            (
                z + lr * (climb - anchor * unsquared),
                "You used the distance. The anchor weighs its square.",
            ),
            (
                z + lr * (_gradient(start) - 2 * anchor * pull),
                "You took the gradient of log p at the start. It belongs where the latent is now.",
            ),
            (
                start + lr * (climb - 2 * anchor * pull),
                "You stepped from the start. The step begins where the latent is now.",
            ),
            (lr * (climb - 2 * anchor * pull), "That is the step. Return where it leads."),
            (
                climb - 2 * anchor * pull,
                "That is the gradient. Return where a step along it leads.",
            ),
            (
                z + lr * (climb - 2 * anchor * z),
                "The anchor pulls to the origin. A latent is held to its own start.",
            ),
            (
                z + lr * (climb - 2 * anchor / z.numel() * pull),
                "The anchor's part comes from a mean over all numbers. Squared distances are sums.",
            ),
            (
                z + lr * (climb - anchor * pull.sign()),
                "The differences from the start are not squared.",
            ),
            (z + lr * (climb - 2 * pull), "The anchor's weight is missing."),
            (
                z + lr * (_log_prob(z) - anchor * pull.square().sum(-1))[:, None],
                "You moved by the value of the objective. A step goes along its gradient.",
            ),
            (
                z + climb - lr * 2 * anchor * pull,
                "The step size is missing in front of the gradient of log p.",
            ),
            (
                z + lr * (climb - anchor * pull**2),
                "You subtract the anchor's squares themselves. The step needs their gradient.",
            ),
            (
                z + lr * (climb - 2 * anchor * pull.sum(-1, keepdim=True)),
                "Each coordinate is pulled by the sum of all. It has a way back of its own.",
            ),
            (
                z + lr * (climb - 2 * anchor * (z + start)),
                "The anchor pulls towards minus the start: look at the sign in its square.",
            ),
            (
                z + lr * (climb_of_one - 2 * anchor * pull_of_one),
                "Only the first latent has moved. All of them should.",
            ),
        ],
    )


@exercise("6.2")
def check_langevin(
    answer: Callable[[Tensor, Tensor, Tensor, float, float], Tensor], seed: int
) -> None:
    """Check one Langevin move (`eq-langevin`).

    Args:
        answer: takes latents, the gradient of U there and noise, `(N, D)` each, the step size
            and the temperature; returns the latents after the move, `(N, D)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z, gradient, noise = torch.randn(3, 5, 2, dtype=torch.float64, generator=random)
    lr, temperature = 0.3, 1.7
    ahead, spread = z + lr * gradient, 2 * lr * temperature

    def with_noise(scale: float) -> Tensor:
        moved: Tensor = ahead + scale * noise
        return moved

    given = z, gradient, noise, lr, temperature
    value = ask_twice(answer, *given, shape=(5, 2), hint="The noise is given.").double()
    known = [
        (
            with_noise(math.sqrt(spread / 4)),
            "The 2 divides under the root, and the equation multiplies by it.",
        ),
        (
            with_noise(math.sqrt(lr * temperature)),
            "Too little noise: N(0, 1) would shrink to half its variance.",
        ),
        (
            with_noise(spread),
            "Your noise has the scale of a variance. What is its standard deviation?",
        ),
        (
            with_noise(math.sqrt(2 * temperature)),
            "The step size is missing in the noise, so a small step is all noise.",
        ),
        (
            with_noise(math.sqrt(2 * lr)),
            "The temperature is missing in the noise: at 0 there should be none.",
        ),
        (
            with_noise(lr * math.sqrt(2 * temperature)),
            "Your noise shrinks as fast as the step: in the limit of small steps there is "
            "none. Variances add up, standard deviations do not.",
        ),
        (
            with_noise(math.sqrt(2 * lr) * temperature),
            "The temperature belongs to the noise's variance, yours is in its scale.",
        ),
        (
            with_noise(math.sqrt(2 * lr / temperature)),
            "Your noise falls as the temperature rises.",
        ),
        (
            z + lr / 2 * gradient + math.sqrt(spread) * noise,
            "The gradient's part is half as large as in the equation, the noise is whole.",
        ),
        (
            z + lr / 2 * gradient + math.sqrt(lr * temperature) * noise,
            "This is the form with half the step in front of the gradient. Its target is "
            "right, but the equation's step is twice yours.",
        ),
        (
            z - lr * gradient + math.sqrt(spread) * noise,
            "You went downhill: U is to grow.",
        ),
        (
            z + gradient + math.sqrt(spread) * noise,
            "The step size is missing in front of the gradient.",
        ),
        (
            z + lr / temperature * gradient + math.sqrt(2 * lr) * noise,
            "You divided the gradient by the temperature. The target is right, but the "
            "equation warms the noise instead.",
        ),
        (
            with_noise(-math.sqrt(spread)),
            "The noise is subtracted. It has the same distribution either way, and the "
            "equation adds it.",
        ),
        (
            with_noise(1.0),
            "The noise stands as it was drawn, whatever the step size and the temperature.",
        ),
        (
            with_noise(2 * math.sqrt(lr * temperature)),
            "The 2 stands outside of the root.",
        ),
        (
            z + lr * (gradient + math.sqrt(spread) * noise),
            "The noise is multiplied by the step size once more.",
        ),
        (
            z + lr * temperature * gradient + math.sqrt(spread) * noise,
            "The temperature stands before the gradient, too. It warms the noise alone.",
        ),
        (
            z + lr * temperature * gradient + math.sqrt(2 * lr) * noise,
            "The temperature stands before the gradient. It belongs to the noise.",
        ),
        (
            with_noise(math.sqrt(lr)),
            "The noise has the root of the step size. Where are the 2 and the temperature?",
        ),
        (
            with_noise(math.sqrt(temperature)),
            "The noise has the root of the temperature. Where are the 2 and the step size?",
        ),
        (
            with_noise(lr * temperature),
            "The noise is multiplied by step size and temperature. Of a variance the root is "
            "its scale, and a 2 belongs to it.",
        ),
        (
            z + 2 * lr * gradient + math.sqrt(spread) * noise,
            "The gradient's part is twice as large as in the equation.",
        ),
        (
            z + lr**2 / 2 * gradient + lr * noise,
            "This is the form whose step size squared is twice this one's. Look at the "
            "equation's powers of it, and at the temperature.",
        ),
        (ahead, "Where is the noise?"),
        (z + math.sqrt(spread) * noise, "Where is the gradient?"),
        (
            lr * gradient + math.sqrt(spread) * noise,
            "That is the move. Return where it leads.",
        ),
    ]
    try:
        refuse(value, with_noise(math.sqrt(spread)), known)
    except Unnamed as error:
        # What factors has it before gradient and noise?
        parts = torch.stack([gradient.flatten(), noise.flatten()], dim=1)
        along, across = parts.pinverse() @ (value - z).flatten()
        for wrong, hint in [
            (
                ahead + across * noise,
                f"The gradient's part is right, the noise's factor is not: yours is {across:.3f}, "
                f"with a step size of {lr} and a temperature of {temperature}. Which variance is "
                "it the root of?",
            ),
            (
                z + along * gradient + math.sqrt(spread) * noise,
                f"The noise is right, the gradient's factor is not: yours is {along:.3f}, with a "
                f"step size of {lr}.",
            ),
            (
                z + along * gradient + across * noise,
                f"You moved by {along:.3f} times the gradient and {across:.3f} times the noise, "
                f"with a step size of {lr} and a temperature of {temperature}: neither is the "
                "equation's.",
            ),
        ]:
            if close(value, wrong):
                raise Unnamed(hint) from error
        raise
