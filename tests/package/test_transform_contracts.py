"""What torch asks of every transform, asked of ours and of two of torch's own as a control."""

import copy
import itertools
import math
import pickle
import re

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    Independent,
    IndependentTransform,
    Normal,
    SoftplusTransform,
    TanhTransform,
    Transform,
    TransformedDistribution,
)

from flowvae_tutorial import AutoregressiveFlow, CouplingFlow, InputError, rsample_and_log_prob
from flowvae_tutorial.autoregressive import InverseAutoregressive, MaskedAutoregressive
from flowvae_tutorial.splines import BINS
from flowvae_tutorial.transforms import (
    AffineCoupling,
    Composition,
    Coupling,
    ElementwiseAffine,
    Permutation,
    SplineCoupling,
)

D = 3


def affine() -> ElementwiseAffine:
    return ElementwiseAffine(*torch.linspace(-1, 1, 2 * D).double().reshape(2, D))


def coupling(kind: type[Coupling], each: int) -> Coupling:
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, each * (D - 1)))
    return kind(1, net.double())


def affine_coupling() -> Coupling:
    return coupling(AffineCoupling, 2)


def spline_coupling() -> Coupling:
    return coupling(SplineCoupling, 3 * BINS - 1)


def autoregressive(kind: type[InverseAutoregressive]) -> InverseAutoregressive:
    net = nn.Linear(D, 2 * D).double()
    net.weight.data *= torch.ones(D, D).tril(-1).repeat(2, 1)
    return kind(net)


def permutation() -> Permutation:
    return Permutation(torch.tensor([2, 0, 1]))


@torch.no_grad()
def flow(kind: str) -> Transform:
    make = CouplingFlow if kind in ("affine", "spline") else AutoregressiveFlow
    module = make(D, hidden=(8,), kind=kind).double()
    for parameter in module.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return module.transform()


BY_HAND = {
    "elementwise": affine,
    "permutation": permutation,
    "affine coupling": affine_coupling,
    "spline coupling": spline_coupling,
    "masked": lambda: autoregressive(MaskedAutoregressive),
    "inverse": lambda: autoregressive(InverseAutoregressive),
    "composition": lambda: Composition([affine(), permutation(), affine_coupling()]),
}
OURS = {
    **BY_HAND,
    "affine flow": lambda: flow("affine"),
    "spline flow": lambda: flow("spline"),
    "masked flow": lambda: flow("masked"),
    "inverse flow": lambda: flow("inverse"),
}
EVERY = {
    **OURS,
    "torch's affine": lambda: AffineTransform(affine().loc, affine().loc + 2, event_dim=1),
    "torch's exp": lambda: IndependentTransform(ExpTransform(), 1),
}


@pytest.fixture(params=EVERY)
def transform(request: pytest.FixtureRequest) -> Transform:
    return EVERY[request.param]()


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> Transform:
    return OURS[request.param]()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, D, dtype=torch.float64)


def log_determinant(f: Transform, u: Tensor) -> Tensor:
    """By autograd, point by point."""
    points = u.reshape(-1, u.shape[-1])
    slopes = torch.stack([torch.autograd.functional.jacobian(f, point) for point in points])
    return torch.linalg.slogdet(slopes).logabsdet.reshape(u.shape[:-1])


SHAPES = [(), (5,), (2, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_and_its_inverse_undo_each_other(
    transform: Transform, shape: tuple[int, ...]
) -> None:
    u = noise(*shape)
    z = transform(u)
    assert transform.domain.check(u).shape == transform.codomain.check(z).shape == shape
    assert transform.domain.check(u).all() and transform.codomain.check(z).all()
    assert z.shape == transform.forward_shape(u.shape)
    assert u.shape == transform.inverse_shape(z.shape)
    torch.testing.assert_close(transform.inv(z), u, rtol=0, atol=1e-9)
    torch.testing.assert_close(transform(transform.inv(z)), z, rtol=0, atol=1e-9)
    assert transform.bijective and transform.inv.bijective
    assert transform.inv is transform.inv and transform.inv.inv is transform
    assert transform.event_dim == transform.inv.event_dim == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_log_determinant_is_autograds(transform: Transform, shape: tuple[int, ...]) -> None:
    u = noise(*shape)
    z = transform(u)
    expected = log_determinant(transform, u)
    found = transform.log_abs_det_jacobian(u, z)
    assert found.shape == shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        transform.inv.log_abs_det_jacobian(z, u), -expected, rtol=0, atol=1e-9
    )


def test_a_transform_equals_itself_and_no_other(ours: Transform) -> None:
    assert ours == ours and ours.inv == ours.inv and not ours != ours
    for other in [*(make() for make in EVERY.values()), ours.inv, TanhTransform(), 3]:
        assert ours != other and other != ours
    torchs = SoftplusTransform()
    assert ComposeTransform([ours, torchs]) == ComposeTransform([ours, torchs])
    assert ComposeTransform([torchs, ours]) != ComposeTransform([ours, torchs])


# --- the cache --------------------------------------------------------------------------------


def test_with_a_cache_a_map_remembers_its_last_value(transform: Transform) -> None:
    assert transform.with_cache(0) is transform
    cached = transform.with_cache()
    assert (cached._cache_size, transform._cache_size) == (1, 0)
    assert type(cached) is type(transform) and cached.with_cache(1) is cached
    u, other = noise(5).requires_grad_(), noise(5)
    z = cached(u)
    assert cached(u) is z and transform(u) is not z
    torch.testing.assert_close(z, transform(u), rtol=0, atol=0)
    torch.testing.assert_close(cached(other), transform(other), rtol=0, atol=0)
    torch.testing.assert_close(cached(u), z, rtol=0, atol=0)
    torch.testing.assert_close(cached.inv(z), u)
    inverse = transform.inv.with_cache()
    assert inverse._cache_size == 1
    torch.testing.assert_close(inverse(z), u)
    torch.testing.assert_close(inverse.inv(u), z)
    assert cached.with_cache(0)._cache_size == 0
    with pytest.raises(ValueError, match="0 or 1"):
        transform.with_cache(2)


def parameters(transform: Transform) -> list[Tensor]:
    """Everything of a transform that could be learned, told to record gradients."""
    parts = getattr(transform, "transforms", (transform,))
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, Coupling | InverseAutoregressive):
            found += part.net.parameters()
        elif isinstance(part, ElementwiseAffine):
            found += [part.loc.requires_grad_(), part.log_scale.requires_grad_()]
    return found


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("first", ["forward", "inverse"])
@pytest.mark.parametrize("name", [name for name in BY_HAND if name != "permutation"])
def test_no_gradient_is_lost_through_the_cache(name: str, first: str, recorded: bool) -> None:
    # torch's own cache loses that of a density at a sample drawn without gradients.
    transform = BY_HAND[name]()
    leaves, cached, start = parameters(transform), transform.with_cache(), noise(5)
    with torch.set_grad_enabled(recorded):
        end = cached(start) if first == "forward" else cached.inv(start)
    u, z = (start, end) if first == "forward" else (end, start)
    for way in (lambda f: f(u), lambda f: f.inv(z)):
        found, expected = (
            torch.autograd.grad(way(f).pow(2).sum(), leaves, retain_graph=True)
            for f in (cached, transform)
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_slope_through_the_cached_inverse_is_there(ours: Transform) -> None:
    cached = ours.with_cache()
    z = cached(noise(1).requires_grad_())
    (slope,) = torch.autograd.grad(cached.inv(z).sum(), z)
    (expected,) = torch.autograd.grad(ours.inv(z).sum(), z)
    torch.testing.assert_close(slope, expected)


# --- among torch's own ------------------------------------------------------------------------

TORCHS = {
    "numbers": lambda: TanhTransform(),
    "vectors": lambda: AffineTransform(0.3, -0.7, event_dim=1),
    "two": lambda: ComposeTransform([AffineTransform(0.1, 2.0), TanhTransform()]),
}


@pytest.mark.parametrize("shape", [(), (5,)])
@pytest.mark.parametrize("order", ["ours first", "torch's first", "between"])
@pytest.mark.parametrize("other", TORCHS)
def test_torchs_composition_takes_ours(
    ours: Transform, other: str, order: str, shape: tuple[int, ...]
) -> None:
    theirs = TORCHS[other]()
    both = {"ours first": [ours, theirs], "torch's first": [theirs, ours]}
    parts = both.get(order, [theirs, ours, AffineTransform(0.2, 0.5)])
    whole = ComposeTransform(parts)
    u = 0.3 * noise(*shape)
    z = whole(u)
    expected = log_determinant(whole, u)
    torch.testing.assert_close(whole.log_abs_det_jacobian(u, z), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(whole.inv(z), u, rtol=0, atol=1e-7)
    cached = whole.with_cache()
    torch.testing.assert_close(cached(u), z)
    torch.testing.assert_close(cached.log_abs_det_jacobian(u, z), expected, rtol=0, atol=1e-8)
    # As a distribution: by torch's inverse pass, and by one forward pass.
    base = Independent(Normal(torch.zeros(D).double(), 0.3), 1)
    p = TransformedDistribution(base, parts)
    assert (p.batch_shape, p.event_shape) == ((), (D,))
    log_p = base.log_prob(u) - expected
    torch.testing.assert_close(p.log_prob(z), log_p, rtol=0, atol=1e-6)
    torch.manual_seed(1)
    drawn, log_p_drawn = rsample_and_log_prob(p, shape)
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, p.rsample(shape))
    torch.testing.assert_close(log_p_drawn, p.log_prob(drawn), rtol=0, atol=1e-6)


def test_a_batch_dimension_may_join_the_event(ours: Transform) -> None:
    rows = IndependentTransform(ours, 1)
    u = noise(2, 4)
    expected = ours.log_abs_det_jacobian(u, ours(u)).sum(-1)
    torch.testing.assert_close(rows.log_abs_det_jacobian(u, rows(u)), expected)
    assert rows.domain.event_dim == 2 and rows.forward_shape((2, 4, D)) == (2, 4, D)


# --- stored, shown, refused -------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_a_copy_is_the_same_map(name: str, clone: object) -> None:
    transform = BY_HAND[name]()
    _ = transform.inv
    other = clone(transform)  # type: ignore[operator]
    u = noise(5)
    assert other.inv is not transform.inv
    torch.testing.assert_close(other(u), transform(u), rtol=0, atol=0)
    torch.testing.assert_close(other.inv(u), transform.inv(u), rtol=0, atol=0)


SHOWN = {
    "elementwise": "ElementwiseAffine(D=3)",
    "permutation": "Permutation(D=3)",
    "affine coupling": "AffineCoupling(size=1)",
    "spline coupling": "SplineCoupling(size=1)",
    "masked": "MaskedAutoregressive()",
    "inverse": "InverseAutoregressive()",
    "composition": "Composition(1 ElementwiseAffine, 1 Permutation, 1 AffineCoupling)",
    "affine flow": "Composition(5 Permutation, 4 AffineCoupling, 1 ElementwiseAffine)",
    "masked flow": "Composition(5 Permutation, 4 MaskedAutoregressive, 1 ElementwiseAffine)",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_transform_shows_its_sizes_in_one_line(name: str) -> None:
    transform = OURS[name]()
    assert repr(transform) == SHOWN[name]
    # zuko, once imported, gives torch's class another name.
    assert re.fullmatch(rf"\w+\({re.escape(SHOWN[name])}\)", repr(transform.inv))
    assert SHOWN[name] in repr(ComposeTransform([transform, ExpTransform()]))


@pytest.mark.parametrize("order", [[0, 0, 2], [0, 1, 3], [-1, 0, 1], [1, 2, 3], [[0, 1], [1, 0]]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*each of 0, …, D − 1 once, got \[[^\n]*\Z"):
        Permutation(torch.tensor(order))


def test_every_permutation_is_taken_and_one_with_its_inverse_is_not_looked_at() -> None:
    for order in itertools.permutations(range(3)):
        assert Permutation(torch.tensor(order)).back.tolist() == [order.index(i) for i in range(3)]
    # On the meta device there are no values to look at: training pays for no check.
    order = torch.empty(3, dtype=torch.int64, device="meta")
    assert Permutation(order, order).back is order


@pytest.mark.parametrize("parts", [[], [ExpTransform()], [affine(), AffineTransform(0, 1)]])
def test_a_composition_of_no_bijections_is_refused(parts: list[Transform]) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*needs Bijections, got [^\n]*ComposeTransform"):
        Composition(parts)  # type: ignore[arg-type]


def test_the_log_determinant_by_hand() -> None:
    # e^(log 3) u + 2 along one of three dimensions, and an order: log 3 in all.
    line = ElementwiseAffine(torch.tensor([2.0, 0, 0]), torch.tensor([3.0, 1, 1]).log())
    whole = ComposeTransform([line, permutation(), AffineTransform(1.0, 2.0)])
    found = whole.log_abs_det_jacobian(torch.zeros(3), whole(torch.zeros(3)))
    assert found.item() == pytest.approx(math.log(3) + 3 * math.log(2))
