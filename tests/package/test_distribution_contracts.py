"""What torch asks of every distribution, asked of ours and of torch's own as a control."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
    Uniform,
    constraints,
)

from flowvae_tutorial import (
    AutoregressiveFlow,
    CouplingFlow,
    FlowPosterior,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    InputError,
    VampPrior,
    mlp,
    rsample_and_log_prob,
)
from flowvae_tutorial.distributions import Chain
from flowvae_tutorial.flows import Flow, _StandardNormal
from flowvae_tutorial.mixtures import Mixture
from flowvae_tutorial.networks import TwoInputs
from flowvae_tutorial.transforms import Bijection, Composition, ElementwiseAffine, Permutation

# --- the distributions ------------------------------------------------------------------------


def loc(*shape: int) -> Tensor:
    return torch.linspace(-1, 1.5, math.prod(shape)).double().reshape(shape)


def normal(*shape: int) -> Independent:
    return Independent(Normal(loc(*shape), 0.3 + 0.2 * loc(*shape) ** 2), 1)


def log_normal(*shape: int) -> Independent:
    return Independent(LogNormal(0.3 * loc(*shape), 0.3), 1)


def boxes() -> Independent:
    """Two squares, side by side: each component has a support of its own."""
    low = torch.tensor([[-2.0, -1.0], [0.0, 0.0]]).double()
    return Independent(Uniform(low, low + 1, validate_args=False), 1)


LOGITS = torch.tensor([0.5, -0.3, 1.0]).double()


def mixture(components: Distribution) -> Mixture:
    return Mixture(components, LOGITS[: components.batch_shape[0]])


def above(a: Tensor) -> Independent:
    """p(b | a) for one number a."""
    return Independent(Normal(a.sin(), 0.3 + a.cos() ** 2 / 4), 1)


def rate(a: Tensor) -> Independent:
    return Independent(Gamma(2 + a, 2 * torch.ones_like(a), validate_args=False), 1)


def either(a: Tensor) -> MixtureSameFamily:
    """A lower level without `rsample`."""
    means = torch.stack([a, a + 3], dim=-2)
    weights = Categorical(logits=LOGITS[:2].expand(means.shape[:-1]))
    return MixtureSameFamily(weights, Independent(Normal(means, 0.5), 1))


def bent() -> Bijection:
    return Composition([affine(), Permutation(torch.tensor([1, 0])), affine()])


def affine() -> ElementwiseAffine:
    return ElementwiseAffine(loc(2), loc(2) / 4)


@torch.no_grad()
def coupling_flow(kind: str, *batch: int) -> Distribution:
    context = 2 if batch else 0
    make = CouplingFlow if kind in ("affine", "spline") else AutoregressiveFlow
    module = make(2, context, transforms=2, hidden=(8,), kind=kind).double()
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return module.requires_grad_(False)(loc(*batch, 2) if batch else None)


OURS: dict[str, Callable[[], Distribution]] = {
    "mixture": lambda: mixture(normal(3, 2)),
    "mixture of log-normals": lambda: mixture(log_normal(3, 2)),
    "mixture of boxes": lambda: mixture(boxes()),
    "mixture of flows": lambda: mixture(Flow(normal(3, 2), bent())),
    "mixture of chains": lambda: mixture(Chain(normal(3, 1), above, 2)),
    "batch of mixtures": lambda: mixture(normal(3, 2)).expand((4,)),
    "flow": lambda: Flow(normal(2), bent()),
    "batch of flows": lambda: Flow(normal(4, 2), bent()),
    "flow of a mixture": lambda: Flow(mixture(normal(3, 2)), bent()),
    "affine couplings": lambda: coupling_flow("affine"),
    "spline couplings": lambda: coupling_flow("spline"),
    "conditional couplings": lambda: coupling_flow("affine", 4),
    "masked autoregressive": lambda: coupling_flow("masked"),
    "conditional inverse autoregressive": lambda: coupling_flow("inverse", 4),
    "chain": lambda: Chain(normal(1), above, 2),
    "batch of chains": lambda: Chain(normal(4, 1), above, 2),
    "chain on a mixture": lambda: Chain(mixture(normal(3, 1)), above, 2),
    "chain to a mixture": lambda: Chain(normal(1), either, 2),
    "chain of positive numbers": lambda: Chain(log_normal(1), rate, 2),
    "chain of chains": lambda: Chain(Chain(normal(4, 1), above, 2), lambda a: above(a[..., :1]), 3),
}
EVERY: dict[str, Callable[[], Distribution]] = {
    **OURS,
    "torch's normal": lambda: normal(2),
    "torch's mixture": lambda: MixtureSameFamily(Categorical(logits=LOGITS), normal(3, 2)),
    "torch's flow": lambda: TransformedDistribution(normal(4, 2), [AffineTransform(0.1, 0.5)]),
}
NO_RSAMPLE = {name for name in EVERY if "mixture" in name}
HAS_MEAN = {"mixture", "mixture of log-normals", "mixture of boxes", "batch of mixtures"}
HAS_MEAN |= {"torch's normal", "torch's mixture"}


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def p(name: str) -> Distribution:
    return EVERY[name]()


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> Distribution:
    return OURS[request.param]()


@pytest.fixture
def by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Set torch's global default, for this test."""
    monkeypatch.setattr(Distribution, "_validate_args", True)
    yield Distribution.set_default_validate_args


# --- shapes -----------------------------------------------------------------------------------

SHAPES = [(), (5,), (2, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_and_densities_have_torchs_shapes(
    name: str, p: Distribution, shape: tuple[int, ...]
) -> None:
    z = p.sample(shape)
    assert z.shape == (*shape, *p.batch_shape, *p.event_shape) and z.dtype == torch.float64
    assert not z.requires_grad and p.sample(torch.Size(shape)).shape == z.shape
    log_p = p.log_prob(z)
    assert log_p.shape == (*shape, *p.batch_shape) and log_p.isfinite().all()
    assert p.support is not None and p.support.event_dim == 1
    assert p.support.check(z).shape == log_p.shape and p.support.check(z).all()
    if p.has_rsample:
        assert p.rsample(shape).shape == z.shape
        z, log_p = rsample_and_log_prob(p, shape)
        assert (z.shape, log_p.shape) == ((*shape, *p.batch_shape, *p.event_shape), log_p.shape)
        torch.testing.assert_close(log_p, p.log_prob(z), rtol=0, atol=1e-9)


def test_densities_broadcast(p: Distribution) -> None:
    z = p.sample((6,))[(slice(None), *(0 for _ in p.batch_shape))]
    assert p.log_prob(z[0]).shape == p.batch_shape
    apart = z.reshape(6, 1, *(1 for _ in p.batch_shape), -1)
    whole = p.log_prob(apart)
    assert whole.shape == (6, 1, *p.batch_shape)
    for i in range(6):
        torch.testing.assert_close(whole[i, 0], p.log_prob(z[i]))


# --- expand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), (3,), (2, 3)])
def test_an_expanded_distribution_is_the_same_for_more(
    name: str, p: Distribution, more: tuple[int, ...]
) -> None:
    before = p.batch_shape
    wide = p.expand((*more, *before))
    assert type(wide) is type(p) and p.batch_shape == before
    assert wide.batch_shape == (*more, *before) and wide.event_shape == p.event_shape
    assert wide.has_rsample == p.has_rsample
    assert wide._validate_args == p._validate_args
    z = wide.sample((5,))
    assert z.shape == (5, *more, *before, *p.event_shape)
    torch.testing.assert_close(wide.log_prob(z), p.log_prob(z), rtol=0, atol=1e-12)
    assert wide.log_prob(p.sample()).shape == wide.batch_shape
    assert wide.support.check(z).all()
    # Each member is a draw of its own.
    many = p.expand((300, *before)).sample().reshape(-1, *p.event_shape)
    assert len(many.unique(dim=0)) == len(many)
    again = wide.expand((7, *wide.batch_shape))
    assert again.log_prob(z[0]).shape == again.batch_shape == (7, *more, *before)
    if name in HAS_MEAN:
        for moment in ("mean", "variance", "stddev"):
            expected = getattr(p, moment).expand(wide.batch_shape + p.event_shape)
            torch.testing.assert_close(getattr(wide, moment), expected)
    if p.has_rsample:
        z, log_p = rsample_and_log_prob(wide, (5,))
        torch.testing.assert_close(log_p, p.log_prob(z), rtol=0, atol=1e-9)


def test_one_can_expand_what_has_one_and_nothing_else(p: Distribution) -> None:
    wide = p.expand((2, 1, *p.batch_shape)).expand((2, 3, *p.batch_shape))
    assert wide.sample().shape == (2, 3, *p.batch_shape, *p.event_shape)
    for shape in ((4, 3, *p.batch_shape), p.batch_shape):
        with pytest.raises(RuntimeError):
            wide.expand(shape)


def test_a_subclass_is_expanded_to_itself(ours: Distribution) -> None:
    class Sub(type(ours)):  # type: ignore[misc]
        pass

    sub = copy.copy(ours)
    sub.__class__ = Sub
    assert type(sub.expand((2, *ours.batch_shape))) is Sub


def test_an_expanded_flow_without_couplings_has_densities_for_its_batch() -> None:
    # Neither its map nor its base's density looks at the batch.
    context = torch.zeros(4, 2)
    for q in (CouplingFlow(2, context=2, transforms=0)(context), _StandardNormal(normal(4, 2), 0)):
        assert q.log_prob(torch.zeros(2)).shape == (4,)


# --- values -----------------------------------------------------------------------------------


def rebuilt(p: Distribution, validate_args: bool | None) -> Distribution:
    """The same, by its constructor."""
    if isinstance(p, Mixture):
        q: Distribution = Mixture(p.components, p.logits, validate_args=validate_args)
    elif isinstance(p, Chain):
        q = Chain(p.first, p.then, p.event_shape[0], validate_args=validate_args)
    elif isinstance(p, Flow):
        q = Flow(p.base_dist, p.transform, validate_args=validate_args)
    elif isinstance(p, MixtureSameFamily):
        parts = p.mixture_distribution, p.component_distribution
        q = MixtureSameFamily(*parts, validate_args=validate_args)
    elif isinstance(p, TransformedDistribution):
        q = TransformedDistribution(p.base_dist, p.transforms, validate_args=validate_args)
    else:
        normal_ = Normal(p.base_dist.loc, p.base_dist.scale, validate_args=validate_args)
        q = Independent(normal_, 1, validate_args=validate_args)
    return q.expand(p.batch_shape)


@pytest.mark.parametrize("told", [True, None])
def test_told_to_look_a_density_refuses_what_has_none(
    name: str, p: Distribution, told: bool | None, by_default: Callable[[bool], None]
) -> None:
    by_default(told is None)
    q = rebuilt(p, told)
    z = p.sample((3,))
    q.log_prob(z)
    bad = z.clone()
    bad.view(-1)[-1] = math.nan
    refused = [(bad, "NaN or infinite")]
    if "torch's" not in name:
        refused.append((torch.full_like(z, -math.inf), "NaN or infinite"))
        refused.append((z[..., :1], "last dimension"))
        refused.append((z[..., [0, 0, 0, 1]], "last dimension"))
    if p.batch_shape:
        refused.append((z.repeat_interleave(2, dim=1), "does not fit the batch shape"))
    if any(word in name for word in ("log-normals", "boxes", "positive")):
        refused.append((-1 - z.abs(), "outside of the support"))
    error = ValueError if "torch's" in name else InputError
    for value, message in refused:
        for density in (q, q.expand((3, *q.batch_shape))):
            with pytest.raises(error) as found:
                density.log_prob(value)
            if error is InputError:
                assert message in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("told", [False, None])
@pytest.mark.parametrize("name", OURS)
def test_not_told_to_look_a_density_looks_at_sizes_alone(
    name: str, told: bool | None, by_default: Callable[[bool], None]
) -> None:
    by_default(told is False)
    q = rebuilt(OURS[name](), told)
    assert not q._validate_args
    for wrong in (torch.zeros(()), torch.zeros(5, 1), torch.zeros(5, 4)):
        with pytest.raises(InputError, match=r"\A[^\n]*numbers in its last dimension, got[^\n]*\Z"):
            q.log_prob(wrong.double())
    if told is None:
        # The parts are not told to look either.
        log_p = q.log_prob(torch.full(q.event_shape, math.nan).double())
        assert log_p.shape == q.batch_shape and not log_p.isfinite().any()


def test_the_levels_of_a_chain_are_told_apart_only_in_a_vector_of_its_size() -> None:
    p = Chain(normal(1), above, 2, validate_args=False)
    with pytest.raises(InputError, match="2 numbers in its last dimension, got"):
        p.log_prob_parts(torch.zeros(5, 3).double())


def test_the_weights_of_a_mixture_are_looked_at_if_told_so() -> None:
    with pytest.raises(ValueError, match="logits"):
        Mixture(normal(3, 2), LOGITS * math.nan, validate_args=True)
    assert Mixture(normal(3, 2), LOGITS * math.nan, validate_args=False).logits.isnan().all()


def hierarchy() -> HierarchicalPosterior:
    lower = GaussianPosterior(TwoInputs(mlp(4, [8], 8), mlp(2, [8], 8), mlp(16, [8], 6)))
    return HierarchicalPosterior(GaussianPosterior(mlp(4, [8], 4)), lower)


def test_what_the_package_builds_is_not_told_to_look(by_default: Callable[[bool], None]) -> None:
    by_default(True)
    x = torch.rand(5, 4)
    gaussian = GaussianPosterior(mlp(4, [8], 2 * 2))
    flow = CouplingFlow(2)
    lower = GaussianPosterior(mlp(2, [8], 2 * 3))
    built = [
        GaussianMixture(2, 3)(),
        VampPrior(gaussian, x)(),
        VampPrior(hierarchy(), x)(),
        HierarchicalPrior(flow, lower)(),
        flow(),
        FlowPosterior(mlp(4, [8], 4), CouplingFlow(2, context=2))(x),
        hierarchy()(x),
    ]
    for p in built:
        log_p = p.log_prob(torch.full(p.event_shape, math.nan))
        assert not p._validate_args and log_p.isnan().all()


# --- density and samples ----------------------------------------------------------------------


def test_slopes_of_a_density_are_those_of_its_values(p: Distribution) -> None:
    z = p.sample((3,)).requires_grad_()
    assert torch.autograd.gradcheck(p.log_prob, (z,))


PLANE = [name for name in EVERY if name != "chain of chains"]


@pytest.mark.parametrize("name", PLANE, indirect=True)
def test_a_density_integrates_to_one_and_its_samples_have_its_moments(
    name: str, p: Distribution
) -> None:
    step, n = 1 / 20, 20_000
    axis = torch.arange(-8 + step / 2, 10, step).double()
    grid = torch.cartesian_prod(axis, axis).reshape(-1, *(1 for _ in p.batch_shape), 2)
    grid = grid.expand(-1, *p.batch_shape, -1)
    inside = p.support.check(grid)
    # Outside of its support a density is 0, whatever the formula says.
    some = torch.where(inside.unsqueeze(-1), grid, p.sample())
    mass = torch.where(inside, p.log_prob(some).exp(), 0.0).unsqueeze(-1) * step**2
    assert (mass.sum(0) - 1).abs().max() < 2e-3
    z = p.sample((n,))
    for moment in (lambda z: z, lambda z: z.sin(), lambda z: z[..., :1] * z.cos()):
        expected = (mass * moment(grid)).sum(0)
        deviation = moment(z).std(0) / n**0.5
        assert ((moment(z).mean(0) - expected).abs() < 5 * deviation + 2e-3).all()
    if name in HAS_MEAN:
        mean = (mass * grid).sum(0)
        torch.testing.assert_close(p.mean, mean, rtol=0, atol=2e-3)
        variance = (mass * grid**2).sum(0) - mean**2
        torch.testing.assert_close(p.variance, variance, rtol=0, atol=5e-3)
    else:
        for attribute in ("mean", "variance", "stddev"):
            with pytest.raises(NotImplementedError):
                getattr(p, attribute)


def test_the_moments_of_a_mixture_are_torchs() -> None:
    theirs = MixtureSameFamily(Categorical(logits=LOGITS), normal(3, 2))
    found = mixture(normal(3, 2))
    torch.testing.assert_close(found.mean, theirs.mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.variance, theirs.variance, rtol=0, atol=1e-14)
    # Far from zero, the mean of squares less the square of the mean has no digit left.
    far = Mixture(Independent(Normal(loc(3, 2).float() + 1e5, 0.1), 1), LOGITS.float())
    near = Mixture(Independent(Normal(loc(3, 2), 0.1), 1), LOGITS)
    torch.testing.assert_close(far.variance.double(), near.variance, rtol=0.05, atol=0)


# --- reparametrisation ------------------------------------------------------------------------


def test_who_has_rsample_says_so(name: str, p: Distribution) -> None:
    assert p.has_rsample == (name not in NO_RSAMPLE)
    if p.has_rsample:
        p.rsample((2,))
    elif name in OURS:
        for draw in (p.rsample, lambda: rsample_and_log_prob(p)):
            with pytest.raises(
                NotImplementedError, match=r"\AMixture\w* has no [^\n]*`sample`[^\n]*\Z"
            ):
                draw()
    assert p.sample().shape == p.batch_shape + p.event_shape


def test_a_chain_asks_its_lower_level_once_and_draws_nothing() -> None:
    asked = []

    def then(a: Tensor) -> Distribution:
        asked.append(a.shape)
        return above(a)

    p = Chain(normal(4, 1), then, 2)
    assert not asked
    before = torch.get_rng_state()
    assert p.has_rsample and p.has_rsample and asked == [(4, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    asked.clear()
    assert not Chain(mixture(normal(3, 1)), then, 2).has_rsample and not asked


def test_a_chain_calls_its_lower_level_once_a_pass_though_it_is_told_to_look() -> None:
    # Batch normalisation would learn from a second call.
    asked = []

    def then(a: Tensor) -> Distribution:
        asked.append(a.shape)
        return above(a[..., :1])

    p = Chain(Chain(normal(4, 1), then, 2), then, 3, validate_args=True)
    p.rsample()
    z, _ = rsample_and_log_prob(p)
    assert asked == [(4, 1), (4, 2)] * 2
    asked.clear()
    Chain(normal(4, 1), then, 2, validate_args=True).log_prob(z[:, :2])
    assert asked == [(4, 1)]


# --- what can be built ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("components", "shape"),
    [(Normal(loc(3), 1.0), "()"), (Independent(Normal(loc(3, 2, 2), 1.0), 2), "(2, 2)")],
)
def test_a_mixture_of_no_vectors_is_refused(components: Distribution, shape: str) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*components over vectors[^\n]*\Z") as error:
        Mixture(components, LOGITS)
    assert shape in str(error.value)


SCALARS = Normal(loc(2), 1.0)


@pytest.mark.parametrize(
    ("base", "transform"),
    [
        (normal(2), AffineTransform(0, 1)),
        (normal(2), AffineTransform(0, 1, event_dim=1)),
        (normal(2), [affine(), affine()]),
        (normal(2), affine().inv),
        (normal(2), nn.Identity()),
        (SCALARS, affine()),
        (Independent(Normal(loc(3, 2), 1.0), 2), affine()),
    ],
)
def test_a_flow_of_another_map_or_another_base_is_refused(
    base: Distribution, transform: object
) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*a Bijection, got [^\n]*torch's[^\n]*\Z"):
        Flow(base, transform)  # type: ignore[arg-type]


def test_a_mixtures_support_is_its_components() -> None:
    assert mixture(normal(3, 2)).support.check(-loc(2)).all()
    positive = mixture(log_normal(3, 2)).support
    assert positive.check(torch.tensor([[1.0, 1], [-1, 1]]).double()).tolist() == [True, False]
    # Each in one of two boxes, one point in neither though its numbers are in both.
    points = torch.tensor([[-1.5, -0.5], [0.5, 0.5], [-1.5, 0.5], [-0.5, -0.5]]).double()
    support = mixture(boxes()).support
    assert support.check(points).tolist() == [True, True, False, False]
    assert not support.is_discrete and isinstance(support, constraints.Constraint)


def test_a_chains_support_is_that_of_both_levels() -> None:
    def up_to(a: Tensor) -> Independent:
        return Independent(Uniform(torch.zeros_like(a), a), 1)

    p = Chain(log_normal(1), up_to, 2, validate_args=True)
    points = torch.tensor([[1.0, 0.5], [1.0, 1.5], [2.0, 1.5], [1.0, -0.5]]).double()
    assert p.support.check(points).tolist() == [True, False, True, False]
    with pytest.raises(InputError, match="outside of the support"):
        p.log_prob(points)


# --- stored and shown -------------------------------------------------------------------------

STORED = [name for name in OURS if "couplings" not in name and name != "chain of chains"]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("name", STORED, indirect=True)
def test_a_copy_is_the_same_distribution(
    p: Distribution, clone: Callable[[Distribution], Distribution]
) -> None:
    z = p.sample((5,))
    # What is asked for once is no obstacle either.
    _ = p.has_rsample
    other = clone(p)
    assert type(other) is type(p) and other.batch_shape == p.batch_shape
    torch.testing.assert_close(other.log_prob(z), p.log_prob(z), rtol=0, atol=0)
    torch.manual_seed(1)
    drawn = p.sample((5,))
    torch.manual_seed(1)
    assert torch.equal(other.sample((5,)), drawn)


SHOWN = {
    "mixture": "Mixture(batch_shape=(), event_shape=(2,), components=3 Normal)",
    "mixture of boxes": "Mixture(batch_shape=(), event_shape=(2,), components=2 Uniform)",
    "mixture of flows": "Mixture(batch_shape=(), event_shape=(2,), components=3 Flow)",
    "batch of mixtures": "Mixture(batch_shape=(4,), event_shape=(2,), components=3 Normal)",
    "affine couplings": "Flow(batch_shape=(), event_shape=(2,), base=Normal, transform=Composition("
    "3 Permutation, 2 AffineCoupling, 1 ElementwiseAffine))",
    "batch of chains": "Chain(batch_shape=(4,), event_shape=(2,), first=Normal)",
    "chain on a mixture": "Chain(batch_shape=(), event_shape=(2,), first=Mixture)",
}


@pytest.mark.parametrize("name", SHOWN, indirect=True)
def test_a_distribution_shows_its_sizes_in_one_line(name: str, p: Distribution) -> None:
    assert repr(p) == SHOWN[name]
    assert repr(Independent(p.expand((3, *p.batch_shape)), 1)).startswith("Independent(")
