"""Flows of couplings: where they start, what they cost, what they learn, and bad input."""

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flowvae_tutorial import (
    VAE,
    CouplingFlow,
    Flow,
    FlowPosterior,
    GaussianLikelihood,
    GaussianPosterior,
    InputError,
    StandardNormal,
    fit,
    rsample_and_log_prob,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.networks import Conditioner, mlp
from flowvae_tutorial.training import NotFinite
from flowvae_tutorial.transforms import Coupling, ElementwiseAffine

KINDS = ["affine", "spline"]
X, C = 6, 4


def small(features: int, kind: str, context: int = 0, transforms: int = 4) -> CouplingFlow:
    return CouplingFlow(features, context, transforms, hidden=(16, 16), kind=kind)


@torch.no_grad()
def bend(flow: CouplingFlow, scale: float = 0.1) -> CouplingFlow:
    """Draw the last layers, zero at first, at random: the flow is no identity any more."""
    for net in flow.nets:
        for parameter in list(net.body.parameters())[-2:]:
            parameter.normal_(0, scale)
    flow.loc.normal_(0, scale)
    flow.log_scale.normal_(0, scale)
    return flow


def one_line(error: pytest.ExceptionInfo[Exception]) -> None:
    assert "\n" not in str(error.value)


# --- where a flow starts ----------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("features", [2, 3, 7, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_flow_is_the_identity_and_its_density_normal(
    kind: str, features: int, context: int
) -> None:
    flow = small(features, kind, context).double()
    given = torch.randn(5, context, dtype=torch.float64) if context else None
    u = 4 * torch.randn(3, 5, features, dtype=torch.float64)
    for call in (flow.transform(given).call_and_ladj, flow.transform(given).inverse_and_ladj):
        z, ladj = call(u)
        torch.testing.assert_close(z, u, rtol=0, atol=1e-12)
        torch.testing.assert_close(ladj, torch.zeros_like(ladj), rtol=0, atol=1e-12)
    expected = -0.5 * u.square().sum(-1) - 0.5 * features * math.log(2 * math.pi)
    torch.testing.assert_close(flow(given).log_prob(u), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", [1, 3])
def test_without_couplings_a_flow_is_one_diagonal_gaussian(features: int) -> None:
    flow = bend(CouplingFlow(features, transforms=0).double(), 0.5)
    z = torch.randn(7, features, dtype=torch.float64)
    expected = Normal(flow.loc, flow.log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(flow().log_prob(z), expected)
    z, log_p = rsample_and_log_prob(flow(), (5,))
    torch.testing.assert_close(flow().log_prob(z), log_p)
    assert len(flow.nets) == 0


@pytest.mark.parametrize("features", [2, 3, 4, 7, 16])
@pytest.mark.parametrize("transforms", [0, 1, 2, 3, 4, 5])
def test_orders_are_permutations_that_are_undone_at_the_end(transforms: int, features: int) -> None:
    orders = CouplingFlow(features, transforms=transforms).orders
    assert orders.shape == (transforms + 1, features)
    now = torch.arange(features)
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(features))
        now = now[order]
    assert torch.equal(now, torch.arange(features))


@pytest.mark.parametrize("features", [2, 3, 4, 7, 16])
def test_both_couplings_of_a_pair_together_change_every_dimension(features: int) -> None:
    flow = CouplingFlow(features, transforms=6)
    now, changed = torch.arange(features), []
    for order in flow.orders[:-1]:
        now = now[order]
        changed.append(set(now[flow.size :].tolist()))
    for first, second in zip(changed[::2], changed[1::2], strict=True):
        assert first | second == set(range(features))
        assert first != second
    assert features < 7 or len({tuple(sorted(c)) for c in changed[::2]}) > 1, "pairs differ"


@pytest.mark.parametrize("kind", KINDS)
def test_one_pair_makes_every_dimension_depend_on_others(kind: str) -> None:
    flow = bend(small(5, kind, transforms=2).double())
    u = torch.randn(5, dtype=torch.float64)
    slopes = torch.func.jacrev(lambda u: flow.transform().call_and_ladj(u)[0])(u)
    off = slopes - torch.diag(slopes.diagonal())
    assert (off != 0).any(dim=1).all()


# --- what a pass costs ------------------------------------------------------------------------


@contextmanager
def counted(flow: CouplingFlow) -> Iterator[dict[str, int]]:
    """How often each coupling is called either way, and each network."""
    counts = {"forward": 0, "inverse": 0, "networks": 0, "contexts": 0}

    def count(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object) -> object:
            counts[name] += 1
            return call(*args)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for method, name in [("call_and_ladj", "forward"), ("inverse_and_ladj", "inverse")]:
            patch.setattr(Coupling, method, count(name, getattr(Coupling, method)))
        hooks = [
            part.register_forward_hook(count(name, lambda *call: None))
            for net in flow.nets
            for part, name in [(net.body, "networks"), (net.of_context, "contexts")]
            if part is not None
        ]
        yield counts
        for handle in hooks:
            handle.remove()


def posterior(kind: str) -> FlowPosterior:
    return FlowPosterior(mlp(X, (8,), 6), bend(small(3, kind, context=3)))


PASSES: dict[str, Callable[[str], tuple[CouplingFlow, Callable[[], Distribution]]]] = {
    "prior": lambda kind: (flow := bend(small(3, kind)), flow),
    "conditional": lambda kind: (
        flow := bend(small(3, kind, context=C)),
        lambda: flow(torch.randn(7, C)),
    ),
    "posterior": lambda kind: (
        (q := posterior(kind)).flow,
        lambda: q(torch.randn(7, X)),
    ),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_with_its_density_is_one_forward_pass_and_a_density_one_inverse(
    kind: str, name: str
) -> None:
    flow, make = PASSES[name](kind)
    contexts = 0 if name == "prior" else 4
    with counted(flow) as counts:
        z, _ = rsample_and_log_prob(make(), (50,))
    assert counts == {"forward": 4, "inverse": 0, "networks": 4, "contexts": contexts}
    with counted(flow) as counts:
        make().log_prob(z)
    assert counts == {"forward": 0, "inverse": 4, "networks": 4, "contexts": contexts}
    with counted(flow) as counts:
        make().sample((50,))
    assert counts == {"forward": 4, "inverse": 0, "networks": 4, "contexts": contexts}


@pytest.mark.parametrize("shape", [(), (50,), (2, 50)])
def test_the_context_goes_through_its_layer_once_for_all_samples(shape: tuple[int, ...]) -> None:
    flow, rows = bend(small(3, "affine", C)), []
    for net in flow.nets:
        net.of_context.register_forward_hook(lambda m, inputs, output: rows.append(inputs[0].shape))
    q = flow(torch.randn(7, C))
    z, _ = rsample_and_log_prob(q, shape)
    q.log_prob(z)
    assert rows == [(7, C)] * 4


# --- density and samples ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_density_at_a_sample_is_the_one_that_came_with_it(
    kind: str, name: str, shape: tuple[int, ...]
) -> None:
    _, make = PASSES[name](kind)
    q = make()
    assert isinstance(q, Flow) and q.has_rsample
    batch = () if name == "prior" else (7,)
    assert (q.batch_shape, q.event_shape) == (batch, (3,))
    z, log_q = rsample_and_log_prob(q, shape)
    assert (z.shape, log_q.shape) == ((*shape, *batch, 3), (*shape, *batch))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=1e-4)
    assert q.sample(shape).shape == q.rsample(shape).shape == z.shape
    assert z.requires_grad and not q.sample(shape).requires_grad


def test_a_flow_is_its_base_density_divided_by_the_slope() -> None:
    # z = 3 u + 2 for u ~ N(1, 2²): z ~ N(5, 6²). The sign of a log-determinant shows here.
    base = Independent(Normal(torch.ones(1), 2 * torch.ones(1)), 1)
    q = Flow(base, ElementwiseAffine(torch.tensor([2.0]), torch.tensor([3.0]).log()))
    z = torch.linspace(-10, 10, 9)[:, None]
    expected = Normal(5.0, 6.0).log_prob(z.squeeze(-1))
    torch.testing.assert_close(q.log_prob(z), expected)
    z, log_q = rsample_and_log_prob(q, (9,))
    torch.testing.assert_close(log_q, Normal(5.0, 6.0).log_prob(z.squeeze(-1)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_example_has_its_own_flow(kind: str) -> None:
    flow, context = bend(small(3, kind, C), 0.5).double(), torch.randn(7, C).double()
    z = torch.randn(5, 7, 3).double()
    log_q = flow(context).log_prob(z)
    for i in range(7):
        torch.testing.assert_close(
            flow(context[i : i + 1]).log_prob(z[:, i : i + 1]), log_q[:, [i]]
        )
    assert ((flow(context.roll(1, 0)).log_prob(z) - log_q).abs() > 1e-6).all()


def test_a_context_may_have_samples_of_its_own() -> None:
    # As the lower level of a hierarchy, told a z₂ for each sample.
    flow, context = bend(small(3, "affine", C)), torch.randn(5, 7, C)
    p = flow(context)
    assert (p.batch_shape, p.sample().shape) == ((5, 7), (5, 7, 3))
    z = torch.randn(5, 7, 3)
    torch.testing.assert_close(p.log_prob(z)[2], flow(context[2]).log_prob(z[2]))


@pytest.mark.parametrize("kind", KINDS)
def test_latents_without_a_batch_are_taken_for_every_context(kind: str) -> None:
    flow = bend(small(3, kind, C)).double()
    context = torch.randn(5, C, dtype=torch.float64)
    z = torch.randn(7, 1, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            flow(context).log_prob(z), flow(context).log_prob(z.expand(7, 5, 3))
        )


def test_the_two_layers_of_a_conditioner_are_one_layer_of_both_inputs() -> None:
    net = Conditioner(2, C, (8, 8), 5)
    nn.init.normal_(list(net.body.parameters())[-2])
    a, context = torch.randn(6, 7, 2), torch.randn(7, C)
    assert net.of_context is not None and net.of_context.bias is None
    both = nn.Linear(2 + C, 8)
    with torch.no_grad():
        both.weight.copy_(torch.cat([net.of_u.weight, net.of_context.weight], dim=1))
        both.bias.copy_(net.of_u.bias)
    side_by_side = torch.cat([a, context.expand(6, 7, C)], dim=-1)
    torch.testing.assert_close(net(context)(a), net.body(both(side_by_side)))
    assert net(context)(a).shape == (6, 7, 5)


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["log_prob", "rsample"])
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind: str, name: str, way: str) -> None:
    # The last layers have left zero: before that, no gradient passes them.
    flow, make = PASSES[name](kind)
    if way == "log_prob":
        (-make().log_prob(torch.randn(20, 7, 3))).sum().backward()
    else:
        z, log_q = rsample_and_log_prob(make(), (20,))
        (log_q + z.pow(2).sum(-1)).sum().backward()
    for parameter_name, parameter in flow.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter_name


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_leaves_the_identity_and_the_second_trains_all(kind: str) -> None:
    flow = small(3, kind)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    z = torch.randn(100, 3) ** 2
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (-flow().log_prob(z)).mean().backward()
        optimizer.step()
        moved.append({name for name, p in flow.named_parameters() if p.grad.any()})
    everything = {name for name, _ in flow.named_parameters()}
    assert moved[0] < everything and moved[1] == everything


def banana(n: int) -> tuple[Tensor, Tensor]:
    """A density bent along z₂ = z₁² / 2: samples, and the true log-density at them."""
    z1 = torch.randn(n)
    middle = 0.5 * z1**2 - 0.5
    z2 = middle + 0.3 * torch.randn(n)
    log_p = Normal(0.0, 1.0).log_prob(z1) + Normal(middle, 0.3).log_prob(z2)
    return torch.stack([z1, z2], dim=-1), log_p


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_flow_comes_close_to_a_banana(kind: str) -> None:
    flow = CouplingFlow(2, hidden=(32,), kind=kind)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    for _ in range(250):
        loss = -flow().log_prob(banana(256)[0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z, log_p = banana(4000)
    gap = log_p - flow().log_prob(z).detach()
    # The gap is a KL divergence: not below zero but for its standard error.
    assert -0.05 < gap.mean() < 0.1
    straight = Normal(z.mean(0), z.std(0)).log_prob(z).sum(-1)
    assert (log_p - straight).mean() > 0.5, "one diagonal Gaussian does not fit"


# --- storing and moving -----------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_can_be_copied_and_stored(kind: str, context: int) -> None:
    flow = bend(small(5, kind, context))
    given = torch.randn(7, context) if context else None
    z = torch.randn(7, 5)
    expected = flow(given).log_prob(z)
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)
    other = small(5, kind, context)
    assert not torch.equal(other.orders, flow.orders), "drawn anew"
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for clone in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(clone(given).log_prob(z), expected)
    with torch.no_grad():
        other.loc.add_(1)
    assert torch.equal(flow(given).log_prob(z), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_follows_its_module(kind: str) -> None:
    flow = bend(small(3, kind, C))
    z, context = torch.randn(7, 3), torch.randn(7, C)
    single = flow(context).log_prob(z)
    assert single.dtype == flow(context).sample().dtype == torch.float32
    flow.double()
    double = flow(context.double()).log_prob(z.double())
    assert double.dtype == flow(context.double()).sample().dtype == torch.float64
    assert flow.orders.dtype == torch.int64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)
    on_meta = small(3, kind).to("meta")()
    assert on_meta.sample((2,)).device.type == "meta"


# --- bad input --------------------------------------------------------------------------------


def with_one(value: float, *shape: int) -> Tensor:
    bad = torch.randn(*shape)
    bad[-1, 0] = value
    return bad


def looking(q: Distribution) -> Flow:
    """The same flow, told to look at values: torch's `validate_args`."""
    assert isinstance(q, Flow)
    return Flow(q.base_dist, q.transform, validate_args=True)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a context of the wrong width": (
        lambda: small(3, "affine", C)(torch.zeros(7, C + 1)),
        r"context must have shape \(N, 4\), got \(7, 5\)",
    ),
    "a context that is not wanted": (
        lambda: small(3, "affine")(torch.zeros(7, C)),
        "takes no context",
    ),
    "a context that is missing": (
        lambda: small(3, "affine", C)(),
        r"needs a context of shape \(N, 4\), got none",
    ),
    "a context with a NaN": (
        lambda: small(3, "affine", C)(with_one(math.nan, 7, C)),
        "the context has NaN or infinite values",
    ),
    "an infinite context": (
        lambda: small(3, "affine", C)(with_one(-math.inf, 7, C)),
        "the context has NaN or infinite values",
    ),
    "a latent with a NaN": (
        lambda: looking(small(3, "spline")()).log_prob(with_one(math.nan, 7, 3)),
        r"\Az has NaN or infinite values",
    ),
    "an infinite latent": (
        lambda: looking(small(3, "spline")()).log_prob(with_one(math.inf, 7, 3)),
        r"\Az has NaN or infinite values",
    ),
    "latents of another size": (
        lambda: small(3, "affine")().log_prob(torch.zeros(7, 4)),
        r"z must have 3 numbers in its last dimension, got \(7, 4\)",
    ),
    "one number": (
        lambda: small(3, "affine")().log_prob(torch.tensor(1.0)),
        r"z must have 3 numbers in its last dimension, got \(\)",
    ),
    "one feature": (lambda: CouplingFlow(1), "at least 2 features.* got 1; transforms=0"),
    "no feature": (
        lambda: CouplingFlow(0, transforms=0),
        "features must be from 1 to 1000000, got 0",
    ),
    "an unknown kind": (
        lambda: CouplingFlow(3, kind="cubic"),
        "no coupling of kind 'cubic': choose 'affine' or 'spline'",
    ),
    "no hidden layer": (
        lambda: CouplingFlow(3, hidden=()),
        r"hidden must name at least 1 layer, got \(\)",
    ),
    "fewer than no couplings": (
        lambda: CouplingFlow(3, transforms=-1),
        "transforms must be from 0 .* got -1",
    ),
    "a negative context": (lambda: CouplingFlow(3, context=-1), "context must be from 0 .* got -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_flow_that_cannot_be_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as error:
        make()
    one_line(error)


def test_large_finite_numbers_are_not_taken_for_infinite_ones() -> None:
    z = torch.full((7, 2), 3e38)
    assert z.sum().isinf()
    looking(CouplingFlow(2, context=2, transforms=0)(z)).log_prob(z)


# --- a loss that is no number -----------------------------------------------------------------


@pytest.fixture
def data() -> Data:
    rings = load("rings")
    return replace(rings, train=rings.train[:64], validation=rings.validation[:32])


def vae_with(where: str, data: Data) -> VAE:
    """A VAE of two latents with a flow as its prior or in its posterior."""
    prior: nn.Module = StandardNormal(2)
    posterior: nn.Module = GaussianPosterior(mlp(data.features, (8,), 4))
    if where == "prior":
        prior = small(2, "affine")
    else:
        posterior = FlowPosterior(mlp(data.features, (8,), 4), small(2, "affine", context=2))
    decoder = mlp(2, (8,), data.features)
    return VAE(prior, posterior, GaussianLikelihood(decoder, data.features))


@pytest.mark.parametrize("where", ["prior", "posterior"])
def test_a_nan_within_training_is_fits_to_report_with_epoch_and_step(
    data: Data, where: str
) -> None:
    vae = vae_with(where, data)
    with torch.no_grad():
        vae.posterior.net[-1].bias.fill_(math.nan)
    with pytest.raises(NotFinite, match="epoch 1, step 1") as error:
        fit(vae, data, epochs=1, batch_size=32)
    one_line(error)


@pytest.mark.parametrize("where", ["prior", "posterior"])
def test_a_nan_that_first_shows_in_validation_is_fits_to_report_too(data: Data, where: str) -> None:
    # One step an epoch, and it spoils the weights: no loss shows it.
    vae = vae_with(where, data)
    vae.posterior.net[-1].bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match="epoch 1") as error:
        fit(vae, data, epochs=1, batch_size=64)
    one_line(error)
