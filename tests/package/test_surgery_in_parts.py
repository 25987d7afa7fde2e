"""The surgery of an ELBO in parts: no more latents at once than said, and the same numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import flowvae_tutorial.evaluation
from flowvae_tutorial import elbo_surgery


@pytest.mark.parametrize(("num_samples", "most"), [(3, 18), (30, 30)])
def test_surgery_works_in_parts_and_gives_what_the_whole_gives(
    linear_gaussian: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    num_samples: int,
    most: int,
) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(50)
    decoded: list[int] = []
    exact.vae.likelihood.net.register_forward_hook(
        lambda module, inputs, output: decoded.append(output[..., 0].numel())
    )
    found = []
    for rows in (20, 50 * num_samples):
        monkeypatch.setattr(flowvae_tutorial.evaluation, "ROWS", rows)
        decoded.clear()
        torch.manual_seed(2)
        found.append(elbo_surgery(exact.vae, x, num_samples))
        assert sum(decoded) == 50 * num_samples
        assert max(decoded) == (most if rows == 20 else 50 * num_samples)
    assert found[0] == pytest.approx(found[1], abs=1e-12)
