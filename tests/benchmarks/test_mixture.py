"""A mixture's log-density beside torch's: `make bench`, on request and on an idle machine.

500 diagonal Gaussians in 40 dimensions, as in the paper's VampPrior, one thread. torch's
`MixtureSameFamily` subtracts every mean from every point: it is exact and slow. The usual
remedy, the quadratic form as matrix products in float32, is fast and loses its digits where the
scales are small. Both the CPU time, with gradients to everything, and the error are printed.
"""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from common import COMPONENTS, LATENT, Step, ratio, report, time_in_turns, total, user
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from flowvae_tutorial.mixtures import Mixture

AT_LEAST = 8.0
SCALES = [1e-3, 3e-3, 3e-2, 0.3, 1.0, 10.0]
LARGEST_ERROR, LARGEST_RELATIVE_ERROR = 1e-4, 1e-6

LogDensity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def gaussians(loc: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def ours(z: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    return Mixture(gaussians(loc, scale), logits).log_prob(z)


def broadcasting(z: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    weights = Categorical(logits=logits, validate_args=False)
    return MixtureSameFamily(weights, gaussians(loc, scale), validate_args=False).log_prob(z)


def products_in_float32(z: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    precision = scale**-2
    distance = z**2 @ precision.T - 2 * z @ (loc * precision).T + (loc**2 * precision).sum(dim=-1)
    constant = scale.log().sum(dim=-1) + 0.5 * loc.shape[-1] * math.log(2 * math.pi)
    return (logits.log_softmax(dim=0) - constant - 0.5 * distance).logsumexp(dim=-1)


def problem(count: int, scale: float) -> tuple[Tensor, ...]:
    """Samples z of a mixture with scales about `scale`, then its loc, scale and logits."""
    loc = torch.randn(COMPONENTS, LATENT)
    scales = scale * (0.2 * torch.randn(COMPONENTS, LATENT)).exp()
    logits = torch.randn(COMPONENTS)
    z = Mixture(gaussians(loc, scales), logits).sample((count,))
    return z, loc, scales, logits


def forward_and_backward(log_density: LogDensity, count: int) -> Step:
    inputs = [value.requires_grad_() for value in problem(count, 1.0)]
    return lambda: torch.autograd.grad(log_density(*inputs).sum(), inputs)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("count", "rounds", "steps"), [(100, 40, 5), (5000, 9, 1)])
def test_a_mixture_takes_at_most_an_eighth_of_torch_s_cpu_time(
    count: int, rounds: int, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    contestants = {
        f"ours, B = {count}": ours,
        f"MixtureSameFamily, B = {count}": broadcasting,
        f"products in float32, B = {count}": products_in_float32,
    }
    seconds = time_in_turns(
        {
            name: functools.partial(forward_and_backward, log_density, count)
            for name, log_density in contestants.items()
        },
        rounds,
        steps,
    )
    mine, theirs, naive = seconds.values()
    spread = ratio(total(theirs), total(mine))
    with capsys.disabled():
        report(
            seconds,
            {
                "MixtureSameFamily / ours": spread,
                "the same, user time alone": ratio(user(theirs), user(mine)),
                "products in float32 / ours": ratio(total(naive), total(mine)),
            },
        )
    assert spread.high >= AT_LEAST


def test_a_mixture_is_as_exact_as_broadcasting(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    methods = {
        "ours": ours,
        "MixtureSameFamily": broadcasting,
        "products in float32": products_in_float32,
    }
    lines = [f"{'largest error, nats':46}" + "".join(f"{name:>21}" for name in methods)]
    errors, relative_errors = [], []
    for scale in SCALES:
        z, *mixture = problem(1000, scale)
        for where, points in {"samples": z, "elsewhere": 3 * torch.randn_like(z)}.items():
            exact = broadcasting(*(value.double() for value in (points, *mixture)))
            off = {name: (f(points, *mixture) - exact).abs() for name, f in methods.items()}
            if where == "samples":
                errors.append(off["ours"].max().item())
            else:
                off = {name: value / exact.abs() for name, value in off.items()}
                relative_errors.append(off["ours"].max().item())
            label = (
                f"σ = {scale:g}, {'at samples' if where == 'samples' else 'elsewhere, relative'}"
            )
            lines.append(
                f"{label:46}" + "".join(f"{value.max().item():21.1e}" for value in off.values())
            )
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert max(errors) < LARGEST_ERROR
    assert max(relative_errors) < LARGEST_RELATIVE_ERROR
