"""`rsample_and_log_prob`: one pass forward gives what torch's `log_prob` gives backward."""

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    CorrCholeskyTransform,
    CumulativeDistributionTransform,
    Distribution,
    ExpTransform,
    Independent,
    IndependentTransform,
    LogNormal,
    MultivariateNormal,
    Normal,
    ReshapeTransform,
    SigmoidTransform,
    SoftplusTransform,
    StickBreakingTransform,
    TanhTransform,
    Transform,
    TransformedDistribution,
    constraints,
)

from flowvae_tutorial import rsample_and_log_prob

LOC = torch.tensor([0.3, -0.5, 0.0, 0.2, -0.1, 0.4], dtype=torch.float64)


def scalars(*shape: int) -> Normal:
    """Independent numbers as the batch: no event dimension."""
    loc = LOC[: shape[-1]].expand(shape)
    return Normal(loc, 0.4 + loc**2)


def vectors(*shape: int) -> Independent:
    """Vectors as the event."""
    return Independent(scalars(*shape), 1)


def affine(event_dim: int = 0) -> AffineTransform:
    return AffineTransform(0.3, -0.7, event_dim=event_dim)


CASES: dict[str, Distribution] = {
    "Normal": scalars(3, 4),
    "Independent": vectors(3, 4),
    "MultivariateNormal": MultivariateNormal(LOC, torch.eye(6).double() + 0.5),
    "LogNormal": LogNormal(LOC, 0.5 + LOC**2),
    "event dim 0": TransformedDistribution(scalars(3, 4), [affine(), SigmoidTransform()]),
    "event dim 1, exp": TransformedDistribution(vectors(3, 4), ExpTransform()),
    "event dim 1, several": TransformedDistribution(
        vectors(3, 4), [affine(), TanhTransform(), affine(1), ExpTransform()]
    ),
    "no transform": TransformedDistribution(vectors(3, 4), []),
    "composed": TransformedDistribution(
        vectors(3, 4), ComposeTransform([affine(1), SoftplusTransform(), affine()])
    ),
    "independent transform": TransformedDistribution(
        scalars(3, 4), [affine(), IndependentTransform(ExpTransform(), 1)]
    ),
    "stick-breaking": TransformedDistribution(vectors(3, 4), [affine(), StickBreakingTransform()]),
    "stick-breaking of scalars": TransformedDistribution(scalars(3, 4), StickBreakingTransform()),
    "stick-breaking, then scalars": TransformedDistribution(
        scalars(3, 4), [affine(), StickBreakingTransform(), affine()]
    ),
    "cumulative distribution": TransformedDistribution(
        vectors(3, 4), CumulativeDistributionTransform(scalars(3, 4))
    ),
    "reshape": TransformedDistribution(
        vectors(3, 4), [ExpTransform(), ReshapeTransform((4,), (2, 2)), affine()]
    ),
    "reshape, then rows": TransformedDistribution(
        vectors(3, 4), [ReshapeTransform((4,), (2, 2)), StickBreakingTransform()]
    ),
    "reshape down": TransformedDistribution(
        Independent(scalars(3, 2, 4), 2), [affine(), ReshapeTransform((2, 4), (8,)), affine(1)]
    ),
    "reshape of scalars": TransformedDistribution(
        scalars(3, 4), [affine(), ReshapeTransform((4,), (2, 2)), ExpTransform()]
    ),
    "vector to matrix": TransformedDistribution(
        vectors(3, 6), [affine(), CorrCholeskyTransform(), affine()]
    ),
    "flow of a flow": TransformedDistribution(
        TransformedDistribution(vectors(3, 4), [TanhTransform()]), [affine(1), ExpTransform()]
    ),
}


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", CASES)
def test_log_prob_is_that_of_the_sample(name: str, sample_shape: tuple[int, ...]) -> None:
    distribution = CASES[name]
    z, log_prob = rsample_and_log_prob(distribution, sample_shape)
    assert z.shape == sample_shape + distribution.batch_shape + distribution.event_shape
    assert log_prob.shape == sample_shape + distribution.batch_shape
    torch.testing.assert_close(log_prob, distribution.log_prob(z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_sample_is_what_rsample_draws(name: str) -> None:
    torch.manual_seed(3)
    z, _ = rsample_and_log_prob(CASES[name], (5,))
    torch.manual_seed(3)
    assert torch.equal(z, CASES[name].rsample((5,)))


class Coupling(Transform):
    """(a, b) to (a + a³, b exp(tanh a) + a²), written as one pass; an inverse is a failure."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += 1
        a, b = u.chunk(2, dim=-1)
        z = torch.cat([a + a**3, b * a.tanh().exp() + a**2], dim=-1)
        return z, ((1 + 3 * a**2).log() + a.tanh()).sum(-1)

    def _call(self, u: Tensor) -> Tensor:
        raise AssertionError("a second pass")

    def _inverse(self, z: Tensor) -> Tensor:
        raise AssertionError("an inverse")

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        raise AssertionError("a second pass")


class OnlyForward(Transform):
    """A transform written the way of torch's own."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def _call(self, u: Tensor) -> Tensor:
        self.calls += 1
        return u + u**3

    def _inverse(self, z: Tensor) -> Tensor:
        raise AssertionError("an inverse")

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        return (1 + 3 * u**2).log()


def push(transforms: list[Transform], u: Tensor) -> Tensor:
    for transform in transforms:
        u = transform.call_and_ladj(u)[0] if isinstance(transform, Coupling) else transform(u)
    return u


def test_log_determinants_are_those_of_the_jacobian() -> None:
    base = vectors(4)
    transforms = [Coupling(), affine(1), TanhTransform(), Coupling(), SoftplusTransform()]
    torch.manual_seed(3)
    z, log_prob = rsample_and_log_prob(TransformedDistribution(base, transforms))
    torch.manual_seed(3)
    u = base.rsample()
    assert torch.equal(z, push(transforms, u))
    jacobian = torch.autograd.functional.jacobian(lambda u: push(transforms, u), u)
    expected = base.log_prob(u) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sample_shape", [(), (5,)])
def test_each_network_runs_once_and_never_backward(sample_shape: tuple[int, ...]) -> None:
    first, second, plain = Coupling(), Coupling(), OnlyForward()
    flow = TransformedDistribution(vectors(3, 4), [first, plain, second])
    _, log_prob = rsample_and_log_prob(flow, sample_shape)
    assert log_prob.isfinite().all()
    assert (first.passes, plain.calls, second.passes) == (1, 1, 1)


def test_a_flow_of_a_flow_is_not_inverted_either() -> None:
    inner, outer = Coupling(), Coupling()
    flow = TransformedDistribution(TransformedDistribution(vectors(3, 4), inner), outer)
    rsample_and_log_prob(flow, (5,))
    assert (inner.passes, outer.passes) == (1, 1)


def test_a_distribution_with_its_own_method_is_asked_alone() -> None:
    class Own(TransformedDistribution):
        def rsample_and_log_prob(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
            assert isinstance(sample_shape, torch.Size)
            return torch.full((*sample_shape, 4), 7.0), torch.full(sample_shape, 8.0)

        def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
            raise AssertionError("a second sample")

        log_prob = rsample

    z, log_prob = rsample_and_log_prob(Own(vectors(4), [ExpTransform()]), (5,))
    assert torch.equal(z, torch.full((5, 4), 7.0))
    assert torch.equal(log_prob, torch.full((5,), 8.0))


def test_gradients_are_those_of_the_reparametrised_sample() -> None:
    loc, scale = (t.clone().requires_grad_() for t in (LOC, 0.5 + LOC**2))
    flow = TransformedDistribution(Independent(Normal(loc, scale), 1), [ExpTransform()])
    z, log_prob = rsample_and_log_prob(flow)
    noise = (z.log() - loc).detach() / scale.detach()
    # With z = exp(loc + scale ε): log q(z) = log N(ε) − log scale − (loc + scale ε).
    by_loc, by_scale = torch.autograd.grad(log_prob, [loc, scale], retain_graph=True)
    torch.testing.assert_close(by_loc, -torch.ones_like(loc))
    torch.testing.assert_close(by_scale, -1 / scale.detach() - noise)
    by_loc, by_scale = torch.autograd.grad(z.sum(), [loc, scale])
    torch.testing.assert_close(by_loc, z.detach())
    torch.testing.assert_close(by_scale, z.detach() * noise)


@pytest.mark.parametrize("sample_shape", [(), (5,)])
@pytest.mark.parametrize("name", ["MAF", "NSF"])
def test_zuko_flows_use_their_own_method(
    zuko: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, sample_shape: tuple[int, ...]
) -> None:
    flow = getattr(zuko.flows, name)(features=3, context=2).double()
    q_z = flow(torch.randn(7, 2, dtype=torch.float64))
    with monkeypatch.context() as patch:
        for other in ("rsample", "log_prob"):
            patch.delattr(zuko.distributions.NormalizingFlow, other)
        z, log_prob = rsample_and_log_prob(q_z, sample_shape)
    assert z.shape == (*sample_shape, 7, 3)
    torch.testing.assert_close(log_prob, q_z.log_prob(z), rtol=1e-6, atol=1e-6)
