"""Networks: their layers, the gate, and the shapes they keep."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowvae_tutorial import gated_mlp, mlp
from flowvae_tutorial.networks import GatedLinear, OnParts, TwoInputs, dense, evaluating


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
    first, second, last = (m for m in net.modules() if isinstance(m, nn.Linear))
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


def test_dense_is_linear_then_silu() -> None:
    layer, x = dense(4, 5), torch.randn(3, 4)
    torch.testing.assert_close(layer(x), F.silu(x @ layer[0].weight.T + layer[0].bias))


@pytest.mark.parametrize(("make", "layer"), [(mlp, dense), (gated_mlp, GatedLinear)])
def test_both_perceptrons_are_one_with_their_own_layer(
    make: Callable[..., nn.Module], layer: Callable[[int, int], nn.Module]
) -> None:
    other, net = mlp(4, (5, 6), 2, layer), make(4, (5, 6), 2)
    other.load_state_dict(net.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(net(x), other(x))


def two_inputs() -> TwoInputs:
    return TwoInputs(mlp(4, (), 5), mlp(3, (), 6), mlp(11, (8,), 2))


def by_hand(net: TwoInputs, a: Tensor, b: Tensor) -> Tensor:
    out: Tensor = net.joint(torch.cat([net.first(a), net.second(b)], dim=-1))
    return out


@pytest.mark.parametrize("batch", [(), (7,), (5, 7), (2, 5, 7)])
def test_two_inputs_join_every_sample_with_its_own_example(batch: tuple[int, ...]) -> None:
    net = two_inputs()
    a, b = torch.randn(*batch[-1:], 4), torch.randn(*batch, 3)
    out = net(a, b)
    assert out.shape == (*batch, 2)
    flat = b.reshape(-1, *b.shape[-2:]) if len(batch) > 1 else b[None]
    expected = torch.stack([by_hand(net, a, sample) for sample in flat])
    torch.testing.assert_close(out.reshape(expected.shape), expected)


def test_the_first_input_goes_through_its_network_once_and_not_once_a_sample() -> None:
    net, seen = two_inputs(), []
    net.first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    net(torch.randn(7, 4), torch.randn(50, 7, 3))
    assert seen == [(7, 4)]


def test_two_inputs_send_gradients_through_all_three_networks() -> None:
    net = two_inputs()
    net(torch.randn(7, 4), torch.randn(5, 7, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("batch", [(), (7,), (5, 7)])
def test_on_parts_gives_each_network_its_part_of_the_vector(batch: tuple[int, ...]) -> None:
    net = two_inputs()
    z = torch.randn(*batch, 7)
    out = OnParts(4, net)(z)
    assert out.shape == (*batch, 2)
    torch.testing.assert_close(out, by_hand(net, z[..., :4], z[..., 4:]))


def test_evaluation_mode_ends_as_it_began_even_after_an_error() -> None:
    net = mlp(2, (3,), 1).train()
    net[0].eval()
    other = mlp(2, (), 1)
    with pytest.raises(ZeroDivisionError), evaluating(net, other.forward, print):
        assert not any(module.training for module in (*net.modules(), *other.modules()))
        _ = 1 / 0
    assert net.training and not net[0].training and net[-1].training and other.training
