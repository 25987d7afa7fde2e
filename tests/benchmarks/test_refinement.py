"""What refinement costs: CPU time of one thread, and that it grows no faster than steps and N.

The time is of the digits' spline-flow prior as it is built, which is the identity: every step is
taken at its full length, one gradient and one value. Weights that bend it make the density sharp
and some steps are halved; the second test has both.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from flowvae_tutorial import build, refine
from flowvae_tutorial.data import load

LATENTS, STEPS = 10_000, 10


@torch.no_grad()
def spline_prior(bend: float) -> Distribution:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior = build("spline-flow-prior", load("digits")).prior
    for parameter in prior.parameters():
        parameter.add_(bend * torch.randn_like(parameter))
    distribution: Distribution = prior()
    return distribution


def cpu_seconds(prior: Distribution, z: Tensor, steps: int) -> float:
    start = time.process_time()
    refine(z, prior.log_prob, steps=steps)
    return time.process_time() - start


def straightness(sizes: list[int], seconds: Callable[[int], float]) -> float:
    """R² of a line through the median times at these sizes, measured in turns."""
    times = np.median([[seconds(size) for size in sizes] for _ in range(3)], axis=0)
    print()
    for size, taken in zip(sizes, times, strict=True):
        print(f"{size:8d}{taken:9.3f} s CPU")
    slope, at_zero = np.polyfit(sizes, times, 1)
    r_squared = float(np.corrcoef(sizes, times)[0, 1] ** 2)
    print(f"{1e3 * slope:.3f} ms for one more, {at_zero:.3f} s at none, R² = {r_squared:.4f}")
    return r_squared


def test_what_10_steps_of_10_000_latents_cost(capsys: pytest.CaptureFixture[str]) -> None:
    prior = spline_prior(bend=0)
    z = prior.sample((LATENTS,))
    cpu_seconds(prior, z[:1000], 1)  # to warm up
    seconds = cpu_seconds(prior, z, STEPS)
    with capsys.disabled():
        print(f"\n{LATENTS} latents, {STEPS} steps: {seconds:.1f} s CPU")


@pytest.mark.parametrize("bend", [0.0, 0.1])
def test_the_cost_is_linear_in_steps_and_in_latents(bend: float) -> None:
    prior = spline_prior(bend)
    z = prior.sample((2000,))
    cpu_seconds(prior, z, 1)
    assert straightness([5, 10, 20, 40], lambda steps: cpu_seconds(prior, z[:200], steps)) > 0.98
    assert straightness([250, 500, 1000, 2000], lambda n: cpu_seconds(prior, z[:n], 5)) > 0.98
