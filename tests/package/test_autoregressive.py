"""Autoregressive flows: who sees whom, what each direction costs, and zuko's with our weights."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae_tutorial import (
    VAE,
    AutoregressiveFlow,
    Flow,
    FlowPosterior,
    InputError,
    StandardNormal,
    build,
    rsample_and_log_prob,
)
from flowvae_tutorial.autoregressive import MaskedAutoregressive, MaskedNetwork
from flowvae_tutorial.data import load
from flowvae_tutorial.transforms import AffineCoupling, Composition

KINDS = ["masked", "inverse"]
D, C = 5, 3


@torch.no_grad()
def drawn(module: Any, scale: float = 0.3) -> Any:
    """With all of its weights at random: nothing is zero, nothing is the identity."""
    for parameter in module.parameters():
        parameter.normal_(0, scale)
    return module.double()


def network(features: int = D, context: int = 0, hidden: tuple[int, ...] = (16, 16)) -> Any:
    return drawn(MaskedNetwork(features, context, hidden), 1.0)


def slopes(function: Any, at: Tensor) -> Tensor:
    found: Tensor = torch.autograd.functional.jacobian(function, at)
    return found


# --- the network ------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(16,), (16, 16), (5, 9, 7)])
@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("features", [2, 3, 5])
def test_the_outputs_for_a_number_see_all_numbers_before_it_and_no_other(
    features: int, context: int, hidden: tuple[int, ...]
) -> None:
    net = network(features, context, hidden)
    given = torch.randn(context).double() if context else None
    seen = slopes(net(given), torch.randn(features).double()) != 0
    before = torch.ones(features, features).tril(-1).bool()
    assert torch.equal(seen, before.repeat(2, 1))


@pytest.mark.parametrize("features", [2, 5])
def test_every_output_sees_all_of_the_context(features: int) -> None:
    net, u = network(features, C), torch.randn(features).double()
    seen = slopes(lambda context: net(context)(u), torch.randn(C).double()) != 0
    assert seen.all()


def test_without_its_masks_the_network_would_see_everything() -> None:
    net = network()
    for mask in net.buffers():
        mask.fill_(True)
    assert (slopes(net(None), torch.randn(D).double()) != 0).all()


def test_masks_follow_from_the_sizes_and_are_not_stored() -> None:
    assert not [name for name in network().state_dict() if "mask" in name]


# --- the map ----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_undo_each_other_and_the_log_determinant_is_autograds(
    kind: str, context: int
) -> None:
    flow = drawn(AutoregressiveFlow(D, context, transforms=3, hidden=(16, 16), kind=kind))
    f = flow.transform(torch.randn(4, context).double() if context else None)
    u = torch.randn(4, D).double()
    z, ladj = f.call_and_ladj(u)
    back, same = f.inverse_and_ladj(z)
    torch.testing.assert_close(back, u, rtol=0, atol=1e-10)
    torch.testing.assert_close(same, ladj, rtol=0, atol=1e-10)
    for row in range(4):
        slope = slopes(f, u)[row, :, row]
        torch.testing.assert_close(torch.linalg.slogdet(slope).logabsdet, ladj[row])


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_of_slopes_is_triangular_and_the_exponents_are_its_diagonal(kind: str) -> None:
    flow = AutoregressiveFlow(D, kind=kind)
    f, u = flow._map(network()(None)), torch.randn(D).double()
    slope = slopes(f, u)
    assert (slope.triu(1) == 0).all() and (slope.tril(-1) != 0).any()
    torch.testing.assert_close(slope.diagonal().log().sum(), f.call_and_ladj(u)[1])


@pytest.mark.parametrize(("kind", "call", "inverse"), [("masked", D, 1), ("inverse", 1, D)])
def test_one_way_is_one_pass_of_the_network_and_the_other_one_for_each_number(
    kind: str, call: int, inverse: int
) -> None:
    passes = 0
    net = network()(None)

    def counted(u: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return net(u)

    f = AutoregressiveFlow(D, kind=kind)._map(counted)
    f.call_and_ladj(torch.randn(4, D).double())
    assert passes == call
    passes = 0
    f.inverse_and_ladj(torch.randn(4, D).double())
    assert passes == inverse


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_flow_is_the_identity(kind: str, context: int) -> None:
    flow = AutoregressiveFlow(D, context, kind=kind).double()
    z = 3 * torch.randn(7, D).double()
    expected = -0.5 * z.square().sum(-1) - 0.5 * D * math.log(2 * math.pi)
    given = torch.randn(7, context).double() if context else None
    torch.testing.assert_close(flow(given).log_prob(z), expected)
    torch.testing.assert_close(flow.transform(given)(z), z)


@pytest.mark.parametrize("way", ["density", "sample"])
@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind: str, context: int, way: str) -> None:
    flow = drawn(AutoregressiveFlow(D, context, hidden=(16, 16), kind=kind))
    p = flow(torch.randn(7, context).double() if context else None)
    if way == "density":
        p.log_prob(torch.randn(7, D).double()).sum().backward()
    else:
        z, log_p = rsample_and_log_prob(p, () if context else (7,))
        (z.square().sum() + log_p.sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", ["affine", "maf"])
def test_another_kind_is_refused(kind: Any) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*choose 'masked' or 'inverse'\Z"):
        AutoregressiveFlow(D, kind=kind)


# --- against zuko's -----------------------------------------------------------------------------


def soft_clipped(raw: Tensor) -> Tensor:
    """zuko's bound of a log-scale, where ours is a tanh."""
    return raw / (1 + (raw / math.log(1e-3)).abs())


@pytest.mark.parametrize("context", [0, C])
def test_with_the_weights_of_zukos_maf_it_is_zukos_maf(
    zuko: ModuleType, monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    theirs = zuko.flows.MAF(
        D, context, transforms=1, hidden_features=(16, 16), activation=nn.SiLU
    ).double()
    hyper = theirs.transform.transforms[0].hyper
    for parameter in hyper.parameters():
        parameter.data.normal_()
    layers = [layer for layer in hyper if isinstance(layer, nn.Linear)]
    net = network(D, context)
    ours = [net.of_u, *(part for part in net.body.modules() if isinstance(part, nn.Linear))]
    # zuko has number after number, and we all shifts before all log-scales.
    rows = [slice(None)] * 2 + [torch.arange(2 * D).reshape(D, 2).T.flatten()]
    masks = list(net.buffers())
    with torch.no_grad():
        for mine, mask, layer, order in zip(ours, masks, layers, rows, strict=True):
            mine.weight.copy_(layer.weight[order, : mine.in_features])
            mine.bias.copy_(layer.bias[order])
            mask.copy_(layer.mask[order, : mine.in_features])
        if context:
            net.of_context.weight.copy_((layers[0].weight * layers[0].mask)[:, D:])
    monkeypatch.setattr(
        AffineCoupling, "forward",
        staticmethod(lambda b, theta: (
            theta[..., :D] + soft_clipped(theta[..., D:]).exp() * b, soft_clipped(theta[..., D:])
        )),
    )  # fmt: skip
    given = torch.randn(7, context).double() if context else None
    p = Flow(StandardNormal(D).double()(), MaskedAutoregressive(net(given)))
    z = torch.randn(7, D).double()
    torch.testing.assert_close(p.log_prob(z), theirs(given).log_prob(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("context", [0, C])
def test_zukos_inversion_of_our_network_is_ours(zuko: ModuleType, context: int) -> None:
    net = network(D, context)(torch.randn(4, context).double() if context else None)

    def meta(z: Tensor) -> Any:
        shift, raw = net(z).chunk(2, -1)
        log_scale = 2 * raw.tanh()
        affine = torch.distributions.AffineTransform(shift, log_scale.exp())
        return zuko.transforms.DependentTransform(affine, 1)

    theirs = zuko.transforms.AutoregressiveTransform(meta, passes=D)
    ours, u = MaskedAutoregressive(net), torch.randn(4, D).double()
    z, _ = ours.call_and_ladj(u)
    torch.testing.assert_close(z, theirs.inv(u), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.inverse_and_ladj(z)[0], theirs(z), rtol=0, atol=1e-10)


# --- behind a VAE -------------------------------------------------------------------------------


def test_an_autoregressive_prior_is_an_inverse_autoregressive_posterior() -> None:
    digits = load("digits")
    vae = build("maf-prior", digits).double()
    drawn(vae.prior, 0.1)
    f = vae.prior.transform()

    class Backwards(Composition):
        """f⁻¹ as a map of its own: one pass of each network from z to u."""

        def __init__(self, f: Any) -> None:
            super().__init__(f.transforms)

        def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
            u, ladj = f.inverse_and_ladj(z)
            return u, -ladj

    class Bent(nn.Module):
        """q(u | x): the encoder's Gaussian, pushed through f⁻¹."""

        def forward(self, x: Tensor) -> Flow:
            return Flow(vae.posterior(x), Backwards(f))

    class Deeper(nn.Module):
        """p(x | f(u))."""

        def forward(self, u: Tensor) -> Distribution:
            decoded: Distribution = vae.likelihood(f(u))
            return decoded

    other = VAE(StandardNormal(16).double(), Bent(), Deeper())
    x = digits.batch(digits.test[:5]).double()
    values = []
    for model in (vae, other):
        torch.manual_seed(1)
        values.append(model.elbo(x, 3).value)
    torch.testing.assert_close(*values, rtol=0, atol=1e-8)


def test_the_models_by_name_have_the_flow_that_is_cheap_where_it_is_asked() -> None:
    digits = load("digits")
    prior = build("maf-prior", digits).prior
    posterior = build("iaf-posterior", digits).posterior
    assert isinstance(prior, AutoregressiveFlow) and prior.kind == "masked"
    assert isinstance(posterior, FlowPosterior) and posterior.flow.kind == "inverse"
    assert (prior.context, posterior.flow.context) == (0, 16)


def test_the_numbers_that_chapter_4_counts_are_those_of_the_model() -> None:
    prior = build("maf-prior", load("digits")).prior
    masks = [buffer for name, buffer in prior.named_buffers() if "mask" in name]
    held = sum(parameter.numel() for parameter in prior.parameters())
    at_work = held - sum(int((mask == 0).sum()) for mask in masks)
    assert (round(held, -3), round(at_work, -3)) == (44_000, 23_000)
