"""Networks: their layers, the gate, and the shapes they keep."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowvae_tutorial import gated_mlp, mlp
from flowvae_tutorial.networks import GatedLinear


@pytest.mark.parametrize("make", [mlp, gated_mlp])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 7, 6)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_only_the_last_dimension_changes(
    make: Callable[..., nn.Module], hidden: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    net = make(4, hidden, 2)
    x = torch.randn(*batch, 4)
    assert net(x).shape == (*batch, 2)
    torch.testing.assert_close(net(x.reshape(-1, 4)), net(x).reshape(-1, 2))


def test_mlp_is_linear_layers_with_silu_between() -> None:
    net = mlp(4, (5, 7), 2)
    first, second, last = (layer for layer in net if isinstance(layer, nn.Linear))
    x = torch.randn(3, 4)
    torch.testing.assert_close(net(x), last(F.silu(second(F.silu(first(x))))))


def test_gated_linear_is_one_map_gated_by_another() -> None:
    layer = GatedLinear(4, 5)
    x = torch.randn(3, 4)
    (w, v), (b, c) = layer.linear.weight.chunk(2), layer.linear.bias.chunk(2)
    torch.testing.assert_close(layer(x), (x @ w.T + b) * torch.sigmoid(x @ v.T + c))


def test_gated_mlp_has_the_layers_of_the_paper() -> None:
    net = gated_mlp(784, (300, 300), 80)
    hidden = 2 * (784 * 300 + 300) + 2 * (300 * 300 + 300)
    assert sum(p.numel() for p in net.parameters()) == hidden + 300 * 80 + 80
    first, second, last = net
    x = torch.randn(3, 784)
    torch.testing.assert_close(net(x), last(second(first(x))))


@pytest.mark.parametrize("make", [mlp, gated_mlp])
def test_output_is_unbounded_and_every_parameter_has_a_gradient(
    make: Callable[..., nn.Module],
) -> None:
    net = make(4, (5, 6), 2)
    out = net(1000 * torch.randn(100, 4))
    assert out.min() < -1 and out.max() > 1
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
