"""What is pushed forward in one pass, mixtures and chains, each against torch or closed forms."""

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Categorical,
    ComposeTransform,
    CorrCholeskyTransform,
    CumulativeDistributionTransform,
    Distribution,
    ExpTransform,
    Independent,
    IndependentTransform,
    LogNormal,
    MixtureSameFamily,
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowvae_tutorial import InputError, rsample_and_log_prob
from flowvae_tutorial.distributions import Chain
from flowvae_tutorial.mixtures import Mixture, _gaussian_mixture_log_prob

# --- rsample_and_log_prob ---------------------------------------------------------------------

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


# --- mixtures of diagonal Gaussians -----------------------------------------------------------

D, K = 40, 500
SCALES = [1e-3, 1e-2, 0.1, 1.0, 10.0]


def diagonal(loc: Tensor, scale: Tensor) -> Independent:
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def gaussians(sigma: float | None, k: int = K, d: int = D) -> tuple[Tensor, Tensor, Tensor]:
    """Means, scales and logits in float32; scales from 1e-3 to 10 side by side without `sigma`."""
    loc = 3 * torch.randn(k, d)
    scale = sigma * (0.3 * torch.randn(k, d)).exp() if sigma else 10 ** (4 * torch.rand(k, d) - 3)
    return loc, scale, torch.randn(k)


def broadcast(z: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    """The definition, in float64, with its (..., K, D) tensor."""
    z, loc, scale, logits = z.double(), loc.double(), scale.double(), logits.double()
    each = -0.5 * ((z[..., None, :] - loc) / scale) ** 2 - scale.log()
    whole = each.sum(-1) - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
    return (whole + logits.log_softmax(0)).logsumexp(-1)


@pytest.mark.parametrize("sigma", [*SCALES, None])
def test_a_gaussian_mixture_is_exact_at_its_own_samples(sigma: float | None) -> None:
    loc, scale, logits = gaussians(sigma)
    mixture = Mixture(diagonal(loc, scale), logits)
    z = mixture.sample((100,))
    found = mixture.log_prob(z)
    assert (z.dtype, found.dtype) == (torch.float32, torch.float32)
    expected = broadcast(z, loc, scale, logits)
    assert (found.double() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("sigma", [*SCALES, None])
def test_a_gaussian_mixture_is_exact_far_from_all_components(sigma: float | None) -> None:
    loc, scale, logits = gaussians(sigma)
    z = torch.cat([30 * torch.randn(50, D), 1e4 * torch.randn(50, D)])
    found = Mixture(diagonal(loc, scale), logits).log_prob(z)
    torch.testing.assert_close(
        found.double(), broadcast(z, loc, scale, logits), rtol=1e-6, atol=1e-4
    )


@pytest.mark.parametrize("sigma", [*SCALES, None])
def test_gradients_of_a_gaussian_mixture_are_those_of_the_definition(sigma: float | None) -> None:
    numbers = gaussians(sigma, k=50)
    # Between two components too, where more than one weighs.
    z = Mixture(diagonal(*numbers[:2]), numbers[2]).sample((60,))
    z[30:] = (numbers[0][:30] + numbers[0][20:]) / 2
    leaves = [t.requires_grad_() for t in (z, *numbers)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    at, loc, scale, logits = leaves
    found = torch.autograd.grad(Mixture(diagonal(loc, scale), logits).log_prob(at).sum(), leaves)
    expected = torch.autograd.grad(broadcast(*exact).sum(), exact)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error < 1e-5


def test_gradients_in_float64_pass_gradcheck() -> None:
    loc, scale, logits = (t.double().requires_grad_() for t in gaussians(0.8, k=3, d=2))
    z = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda z, loc, scale, logits: Mixture(diagonal(loc, scale), logits).log_prob(z),
        (z, loc, scale, logits),
    )


class Tensors(TorchDispatchMode):
    """Records the size of the largest tensor made and every dtype, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                self.dtypes.add(tensor.dtype)
        return made


def largest_tensor(distribution: Distribution, z: Tensor) -> int:
    with Tensors() as made:
        distribution.log_prob(z).sum().backward()
    return made.largest


def test_a_gaussian_mixture_makes_no_tensor_of_samples_by_components_by_latents() -> None:
    s, n, k = 4, 60, 50
    loc, scale, logits = (t.requires_grad_() for t in gaussians(1.0, k))
    z = torch.randn(s, n, D, requires_grad=True)
    linear = max(s * n * k, 2 * s * n * D, 2 * k * D)
    assert largest_tensor(Mixture(diagonal(loc, scale), logits), z) <= linear
    # The record sees such a tensor where there is one.
    assert (
        largest_tensor(MixtureSameFamily(Categorical(logits=logits), diagonal(loc, scale)), z)
        >= s * n * k * D
    )


class OnMps(Tensor):
    """A tensor that says it lives on Apple's GPU."""

    device = SimpleNamespace(type="mps")


@pytest.mark.parametrize("sigma", [0.01, 1.0, 10.0])
def test_without_float64_the_fallback_gives_the_same_numbers(sigma: float) -> None:
    loc, scale, logits = gaussians(sigma, k=50)
    z = Mixture(diagonal(loc, scale), logits).sample((3, 7))
    log_weights = logits.log_softmax(0)
    with Tensors() as made:
        found = _gaussian_mixture_log_prob(z.as_subclass(OnMps), loc, scale, log_weights)
    assert torch.float64 not in made.dtypes
    expected = broadcast(z, loc, scale, logits)
    torch.testing.assert_close(found.as_subclass(Tensor).double(), expected, rtol=0, atol=1e-3)
    with Tensors() as made:
        _gaussian_mixture_log_prob(z, loc, scale, log_weights)
    assert torch.float64 in made.dtypes, "the other branch is the one that needs it"


@pytest.mark.parametrize("shape", [(), (5,), (5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_keeps_the_shape_and_the_dtype(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    loc, scale, logits = (t.to(dtype) for t in gaussians(1.0, k=6, d=3))
    flows = TransformedDistribution(diagonal(loc, scale), [ExpTransform()])
    for components in (diagonal(loc, scale), flows):
        mixture = Mixture(components, logits)
        assert (mixture.batch_shape, mixture.event_shape) == ((), (3,))
        z = mixture.sample(shape)
        assert (z.shape, z.dtype) == ((*shape, 3), dtype)
        log_prob = mixture.log_prob(z)
        assert (log_prob.shape, log_prob.dtype) == (shape, dtype)


def test_in_float64_a_gaussian_mixture_has_float64s_precision() -> None:
    loc, scale, logits = (t.double() for t in gaussians(1.0))
    z = Mixture(diagonal(loc, scale), logits).sample((50,))
    found = Mixture(diagonal(loc, scale), logits).log_prob(z)
    torch.testing.assert_close(found, broadcast(z, loc, scale, logits), rtol=0, atol=1e-9)


# --- mixtures of anything ---------------------------------------------------------------------


def one_by_one(components: list[Distribution], logits: Tensor, z: Tensor) -> Tensor:
    """The definition: the K densities, each from a distribution of its own."""
    whole = torch.stack([component.log_prob(z) for component in components], dim=-1)
    return (whole + logits.log_softmax(0)).logsumexp(-1)


def transformed(loc: Tensor, scale: Tensor) -> TransformedDistribution:
    # The first transform differs from component to component.
    return TransformedDistribution(
        diagonal(loc, scale), [AffineTransform(loc, 0.5 + scale, event_dim=1), ExpTransform()]
    )


@pytest.mark.parametrize("shape", [(), (5,), (5, 7)])
def test_a_mixture_of_transformed_distributions_is_the_sum_of_its_parts(
    shape: tuple[int, ...],
) -> None:
    loc, scale, logits = (t.double() / 3 for t in gaussians(1.0, k=6, d=3))
    mixture = Mixture(transformed(loc, scale), logits)
    z = mixture.sample(shape)
    each = [transformed(m, s) for m, s in zip(loc, scale, strict=True)]
    torch.testing.assert_close(mixture.log_prob(z), one_by_one(each, logits, z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (5,), (5, 7)])
@pytest.mark.parametrize("name", ["MAF", "NSF"])
def test_a_mixture_of_zuko_flows_is_the_sum_of_its_parts(
    zuko: ModuleType, name: str, shape: tuple[int, ...]
) -> None:
    flow = getattr(zuko.flows, name)(features=3, context=2, hidden_features=(8,)).double()
    context, logits = torch.randn(6, 2).double(), torch.randn(6).double()
    with torch.no_grad():
        mixture = Mixture(flow(context), logits)
        z = mixture.sample(shape)
        assert z.shape == (*shape, 3)
        expected = one_by_one([flow(row) for row in context], logits, z)
        torch.testing.assert_close(mixture.log_prob(z), expected, rtol=0, atol=1e-9)


def test_components_are_asked_at_every_latent_once_for_each_of_them() -> None:
    class Recorded(TransformedDistribution):
        def log_prob(self, value: Tensor) -> Tensor:
            asked.append(value.shape)
            return super().log_prob(value)

    asked: list[torch.Size] = []
    loc, scale, logits = gaussians(1.0, k=6, d=3)
    mixture = Mixture(Recorded(diagonal(loc, scale), [AffineTransform(0, 2)]), logits)
    mixture.log_prob(torch.randn(5, 7, 3))
    assert asked == [(35, 6, 3)]


def test_without_a_gradient_many_latents_and_components_are_taken_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Recorded(TransformedDistribution):
        def log_prob(self, value: Tensor) -> Tensor:
            asked.append(len(value))
            return super().log_prob(value)

        def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
            drawn.append(math.prod(sample_shape))
            return super().sample(sample_shape)

    asked: list[int] = []
    drawn: list[int] = []
    loc, scale, logits = gaussians(1.0, k=6, d=3)
    mixture = Mixture(Recorded(diagonal(loc, scale), [AffineTransform(0, 2)]), logits)
    z = torch.randn(5, 7, 3)
    whole = mixture.log_prob(z)
    monkeypatch.setattr("flowvae_tutorial.mixtures.AT_ONCE", 100)
    assert torch.equal(mixture.log_prob(z), whole)
    with torch.no_grad():
        torch.testing.assert_close(mixture.log_prob(z), whole)
    assert asked == [35, 35, 16, 16, 3]
    assert mixture.sample((5, 7)).shape == (5, 7, 3) and drawn == [16, 16, 3]


def test_a_mixture_is_not_one_log_sum_exp_per_dimension() -> None:
    # A product of one-dimensional mixtures has four modes where the mixture has two.
    loc = torch.tensor([[-3.0, -3.0], [3.0, 3.0]])
    logits, ghost = torch.zeros(2), torch.tensor([3.0, -3.0])
    normals = Normal(loc, torch.ones(2, 2))
    product = (normals.log_prob(ghost) + math.log(0.5)).logsumexp(0).sum()
    assert product > -5
    for components in (
        Independent(normals, 1),
        TransformedDistribution(Independent(normals, 1), [AffineTransform(0, 1)]),
    ):
        assert Mixture(components, logits).log_prob(ghost) < -18


WEIGHTS = torch.tensor([0.02, 0.08, 0.3, 0.05, 0.2, 0.35], dtype=torch.float64)


def rows(loc: Tensor, kind: str) -> Distribution:
    """Narrow components about `loc`, of either branch."""
    narrow = diagonal(loc, torch.full_like(loc, 0.01))
    return narrow if kind == "gaussian" else TransformedDistribution(narrow, AffineTransform(0, 1))


def chi_square(z: Tensor, loc: Tensor) -> float:
    """How likely so uneven counts are if z came from narrow components of `WEIGHTS`.

    A point near no component counts as none's.
    """
    distance, nearest = torch.cdist(z, loc).min(-1)
    counts = nearest[distance < 0.1].bincount(minlength=len(loc))
    if counts.sum() < len(z):
        return 0.0
    return float(stats.chisquare(counts, (WEIGHTS * len(z)).numpy()).pvalue)


@pytest.mark.parametrize("kind", ["gaussian", "generic"])
def test_samples_pick_their_component_by_its_weight(kind: str) -> None:
    loc = 3 * torch.randn(6, 3)
    mixture = Mixture(rows(loc, kind), WEIGHTS.log() + 5)
    n = 6000
    assert chi_square(mixture.sample((n,)), loc) > 1e-3
    assert chi_square(mixture.sample((60, 100)).flatten(0, 1), loc) > 1e-3
    # What public versions do instead: in turn from the first, evenly, or from N(0, I).
    in_turn = loc[torch.arange(n) % 6]
    evenly = loc[torch.randint(6, (n,))]
    for wrong in (in_turn, evenly, torch.randn(n, 3)):
        assert chi_square(wrong, loc) < 1e-9


@pytest.mark.parametrize("kind", ["gaussian", "generic"])
def test_fewer_samples_than_components_are_not_those_of_the_first(kind: str) -> None:
    loc = 10 * torch.arange(6.0)[:, None].expand(6, 3)
    mixture = Mixture(rows(loc, kind), torch.tensor([-1e3, -1e3, -1e3, 0.0, 0.0, 0.0]))
    picked = torch.stack([mixture.sample((3,))[:, 0] for _ in range(50)]) / 10
    assert picked.min() > 2.9
    orders = {tuple(row) for row in picked.round().int().tolist()}
    assert len(orders) > 10, "components come in no order, and repeat"


@pytest.mark.parametrize("kind", ["gaussian", "generic"])
def test_samples_of_one_component_are_independent(kind: str) -> None:
    mixture = Mixture(rows(torch.zeros(2, 1), kind), torch.zeros(2))
    z = mixture.sample((20_000,))[:, 0] / 0.01
    assert abs(z.mean().item()) < 4 / 20_000**0.5
    assert abs(z.std().item() - 1) < 4 / 40_000**0.5
    assert len(z.unique()) > 19_000


def test_samples_carry_no_gradient() -> None:
    loc, scale, logits = (t.requires_grad_() for t in gaussians(1.0, k=3, d=2))
    for components in (diagonal(loc, scale), transformed(loc, scale)):
        assert not Mixture(components, logits).sample((4,)).requires_grad


@pytest.mark.parametrize("shape", [(), (4,), (1, 3), (3, 1), (0,)])
def test_weights_that_are_not_one_a_component_are_refused(shape: tuple[int, ...]) -> None:
    loc, scale, _ = gaussians(1.0, k=3, d=2)
    with pytest.raises(InputError, match=r"\A[^\n]*one weight a component[^\n]*\Z") as error:
        Mixture(diagonal(loc, scale), torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_components_in_two_dimensions_are_refused() -> None:
    components = diagonal(torch.zeros(2, 3, 4), torch.ones(2, 3, 4))
    with pytest.raises(InputError, match=r"\A[^\n]*one weight a component[^\n]*\Z"):
        Mixture(components, torch.zeros(2, 3))


# --- chains -----------------------------------------------------------------------------------


def conditional(a: Tensor) -> Independent:
    """p(b | a) with three numbers for two: mean and scale both depend on a."""
    mean = torch.stack([a[..., 0], a[..., 1] ** 2, a[..., 0] - a[..., 1]], dim=-1)
    return diagonal(mean, 0.3 + mean**2)


def chain(*batch: int) -> Chain:
    loc = torch.linspace(-1, 1, 2 * math.prod(batch), dtype=torch.float64).reshape(*batch, 2)
    return Chain(diagonal(loc, 0.5 + loc**2), conditional, 5)


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
@pytest.mark.parametrize("batch", [(), (7,)])
def test_a_chain_is_the_product_of_its_levels(
    batch: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    q = chain(*batch)
    assert (q.batch_shape, q.event_shape) == (batch, (5,))
    z, log_prob = rsample_and_log_prob(q, shape)
    for drawn in (z, q.rsample(shape), q.sample(shape)):
        assert drawn.shape == (*shape, *batch, 5)
    top, lower = q.log_prob_parts(z)
    torch.testing.assert_close(top, q.first.log_prob(z[..., :2]), rtol=0, atol=1e-12)
    expected = conditional(z[..., :2]).log_prob(z[..., 2:])
    torch.testing.assert_close(lower, expected, rtol=0, atol=1e-12)
    for total in (log_prob, q.log_prob(z)):
        assert total.shape == (*shape, *batch)
        torch.testing.assert_close(total, top + lower, rtol=0, atol=1e-12)


def test_a_chain_of_linear_gaussians_is_one_gaussian(two_levels: Callable[..., Any]) -> None:
    exact = two_levels()
    p_z = exact.vae.prior()
    z, log_prob = rsample_and_log_prob(p_z, (4, 6))
    for found in (log_prob, p_z.log_prob(z), sum(p_z.log_prob_parts(z))):
        torch.testing.assert_close(found, exact.log_prior(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("draw", ["sample", "rsample", "rsample_and_log_prob"])
def test_samples_of_a_chain_have_its_mean_and_covariance(
    two_levels: Callable[..., Any], draw: str
) -> None:
    exact = two_levels()
    z = getattr(exact.vae.prior(), draw)((40_000,))
    z = z[0] if isinstance(z, tuple) else z
    expected = torch.cat([torch.zeros(2).double(), exact.a])
    torch.testing.assert_close(z.mean(0), expected, rtol=0, atol=0.04)
    # The upper right block is A: drawing the second level at another top would leave it 0.
    torch.testing.assert_close(z.T.cov()[:2, 2:], exact.A.T, rtol=0, atol=0.06)
    lower = exact.A @ exact.A.T + exact.lower_scale**2 * torch.eye(3).double()
    torch.testing.assert_close(z.T.cov()[2:, 2:], lower, rtol=0, atol=0.1)


def test_a_chain_has_no_mean_rather_than_a_wrong_one() -> None:
    # E[b] is E[then(a).mean]; at the mean of a, a₁² is too small by the variance of a₁.
    q = chain()
    z = q.sample((40_000,))
    at_the_mean = conditional(q.first.mean).mean
    assert (z.mean(0)[3] - at_the_mean[1]).item() > 0.5 * q.first.variance[1].item() > 0.1
    for moment in ("mean", "variance", "stddev"):
        with pytest.raises(NotImplementedError):
            getattr(q, moment)


def test_a_chain_runs_each_level_once_and_never_backward() -> None:
    first, second = Coupling(), Coupling()
    asked: list[torch.Size] = []

    def then(a: Tensor) -> TransformedDistribution:
        asked.append(a.shape)
        return TransformedDistribution(diagonal(a, torch.ones_like(a)), second)

    q = Chain(TransformedDistribution(vectors(3, 4), first), then, 8)
    z, log_prob = rsample_and_log_prob(q, (5,))
    assert (z.shape, log_prob.shape) == ((5, 3, 8), (5, 3))
    assert (first.passes, second.passes, asked) == (1, 1, [(5, 3, 4)])


@pytest.mark.parametrize("draw", [Chain.rsample, lambda q: rsample_and_log_prob(q)[0]])
def test_the_lower_level_sends_gradients_to_the_upper(draw: Callable[[Chain], Tensor]) -> None:
    loc = torch.zeros(2, requires_grad=True)
    q = Chain(diagonal(loc, torch.ones(2)), conditional, 5)
    z = draw(q)
    (by_loc,) = torch.autograd.grad(z[2], loc, retain_graph=True)
    # z[2] = a₀ + (0.3 + a₀²) ε, so its slope is 1 + 2 a₀ ε.
    a = z[0].detach()
    noise = (z[2].detach() - a) / (0.3 + a**2)
    torch.testing.assert_close(by_loc, torch.stack([1 + 2 * a * noise, torch.zeros(())]))
    assert not q.sample().requires_grad


def test_a_chain_on_a_mixture_is_sampled_without_reparametrisation() -> None:
    loc = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    p_z = Chain(Mixture(diagonal(loc, torch.ones(2, 2)), torch.zeros(2)), conditional, 5)
    z = p_z.sample((3, 50))
    assert z.shape == (3, 50, 5)
    assert p_z.log_prob(z).isfinite().all()
    assert 0.2 < (z[..., 0] > 0).double().mean() < 0.8


def test_chains_are_components_of_a_mixture() -> None:
    loc = torch.randn(4, 2).double()
    scale, logits = torch.ones(4, 2).double(), torch.randn(4).double()
    mixture = Mixture(Chain(diagonal(loc, scale), conditional, 5), logits)
    z = mixture.sample((3, 7))
    assert z.shape == (3, 7, 5)
    each = [Chain(diagonal(m, s), conditional, 5) for m, s in zip(loc, scale, strict=True)]
    torch.testing.assert_close(mixture.log_prob(z), one_by_one(each, logits, z))
