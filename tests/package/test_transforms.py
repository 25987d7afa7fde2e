"""Invertible maps: their inverses, log-determinants and edges, and zuko's spline as an oracle."""

import itertools
import math
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from flowvae_tutorial import CouplingFlow
from flowvae_tutorial.splines import (
    BINS,
    BOX,
    LEAST_BIN,
    LOG_SCALE_BOUND,
    rational_quadratic_spline,
    spline_knots,
)
from flowvae_tutorial.transforms import (
    AffineCoupling,
    Bijection,
    Composition,
    Coupling,
    ElementwiseAffine,
    Permutation,
    SplineCoupling,
)

KINDS = ["affine", "spline"]
CONTEXT = 4


@torch.no_grad()
def bent(
    features: int,
    kind: str,
    context: int = 0,
    dtype: torch.dtype = torch.float64,
    scale: float = 0.03,
) -> Bijection:
    """The map of a flow whose last layers, zero at first, are drawn at random.

    Much larger weights would stretch some directions by more than float32 has digits for: what a
    map has rounded away no inverse brings back.
    """
    flow = CouplingFlow(features, context, hidden=(32, 32), kind=kind).to(dtype)
    for net in flow.nets:
        for parameter in list(net.body.parameters())[-2:]:
            parameter.normal_(0, scale)
    flow.loc.normal_(0, 0.3)
    flow.log_scale.normal_(0, 0.1)
    # One context for all points.
    return flow.transform(torch.randn(context, dtype=dtype) if context else None)


def affine() -> ElementwiseAffine:
    return ElementwiseAffine(*torch.randn(2, 3, dtype=torch.float64))


def permutation() -> Permutation:
    return Permutation(torch.tensor([2, 0, 1]))


def coupling(kind: type[Coupling], each: int, size: int = 1, features: int = 3) -> Coupling:
    net = nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, each * (features - size)))
    return kind(size, net.double().requires_grad_(False))


EVERY = {
    "elementwise": affine,
    "permutation": permutation,
    "affine coupling": lambda: coupling(AffineCoupling, 2),
    "spline coupling": lambda: coupling(SplineCoupling, 3 * BINS - 1),
    "composition": lambda: Composition([affine(), permutation(), coupling(AffineCoupling, 2)]),
    "affine flow": lambda: bent(3, "affine"),
    "spline flow": lambda: bent(3, "spline", CONTEXT),
}

# --- by hand ----------------------------------------------------------------------------------


def test_one_dimension_scaled_and_shifted_by_hand() -> None:
    # z = 2 + 3 u, whose slope is 3 whichever way it is asked.
    line = ElementwiseAffine(torch.tensor([2.0]), torch.tensor([3.0]).log())
    z, ladj = line.call_and_ladj(torch.tensor([[-1.0], [0.5]]))
    assert z.flatten().tolist() == pytest.approx([-1.0, 3.5])
    assert ladj.tolist() == pytest.approx([1.0986123, 1.0986123])
    u, ladj = line.inverse_and_ladj(torch.tensor([[-1.0], [3.5]]))
    assert u.flatten().tolist() == pytest.approx([-1.0, 0.5])
    assert ladj.tolist() == pytest.approx([1.0986123, 1.0986123])


def test_an_affine_coupling_by_hand() -> None:
    # θ(a) = (10 a, a): a shift and a raw log-scale. At a = 0.5 it is b ↦ 5 + e^(2 tanh 0.5) b,
    # and 2 tanh 0.5 = 0.92423431, e^0.92423431 = 2.51993804.
    map_ = AffineCoupling(1, lambda a: torch.cat([10 * a, a], dim=-1))
    z, ladj = map_.call_and_ladj(torch.tensor([[0.5, -1.0], [0.0, 3.0]]))
    assert z.flatten().tolist() == pytest.approx([0.5, 5 - 2.51993804, 0.0, 3.0], rel=1e-6)
    assert ladj.tolist() == pytest.approx([0.92423431, 0.0], rel=1e-6)
    u, ladj = map_.inverse_and_ladj(torch.tensor([[0.5, 5 + 2.51993804]]))
    assert u.flatten().tolist() == pytest.approx([0.5, 1.0], rel=1e-6)
    assert ladj.tolist() == pytest.approx([0.92423431], rel=1e-6)


def test_a_permutation_picks_dimensions_and_puts_them_back() -> None:
    z, ladj = permutation().call_and_ladj(torch.tensor([[10.0, 11.0, 12.0]]))
    assert (z.tolist(), ladj.tolist()) == ([[12.0, 10.0, 11.0]], [0.0])
    assert permutation().inverse_and_ladj(z)[0].tolist() == [[10.0, 11.0, 12.0]]


def test_a_composition_goes_first_to_last_and_back() -> None:
    double = ElementwiseAffine(torch.zeros(1), torch.tensor([2.0]).log())
    shift = ElementwiseAffine(torch.ones(1), torch.zeros(1))
    both = Composition([double, shift])
    assert both.call_and_ladj(torch.tensor([3.0]))[0].item() == 7
    assert both.inverse_and_ladj(torch.tensor([7.0]))[0].item() == 3
    assert both.inverse_and_ladj(torch.tensor([7.0]))[1].item() == pytest.approx(math.log(2))


# --- inverse and log-determinant --------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("context", [0, CONTEXT])
@pytest.mark.parametrize("features", [2, 3, 7, 16, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_undoes_the_map(
    kind: str, features: int, context: int, dtype: torch.dtype, most: float
) -> None:
    transform = bent(features, kind, context, dtype)
    points = 20 * torch.rand(200, features, dtype=dtype) - 10
    assert points.abs().max() > BOX, "also outside the spline's box"
    z, ladj = transform.call_and_ladj(points)
    assert (z - points).abs().mean() > 0.05 and ladj.std() > 1e-3, "no identity"
    u, back = transform.inverse_and_ladj(z)
    assert ((u - points).abs() / (1 + points.abs())).max() <= most
    torch.testing.assert_close(back, ladj, rtol=0, atol=most * 10 * features)
    again = transform.call_and_ladj(transform.inverse_and_ladj(points)[0])[0]
    assert ((again - points).abs() / (1 + points.abs())).max() <= most


@pytest.mark.parametrize("make", EVERY)
def test_log_determinants_are_autograds_in_both_directions(make: str) -> None:
    transform = EVERY[make]()
    for u in 3 * torch.randn(10, 3, dtype=torch.float64):
        z, ladj = transform.call_and_ladj(u)
        slopes = torch.func.jacrev(lambda u: transform.call_and_ladj(u)[0])(u)
        expected = torch.linalg.slogdet(slopes).logabsdet
        torch.testing.assert_close(ladj, expected, rtol=0, atol=1e-9)
        # One convention: the inverse, too, gives that of the map from u to z.
        torch.testing.assert_close(transform.inverse_and_ladj(z)[1], expected, rtol=0, atol=1e-9)
        slopes = torch.func.jacrev(lambda z: transform.inverse_and_ladj(z)[0])(z)
        expected = -torch.linalg.slogdet(slopes).logabsdet
        torch.testing.assert_close(ladj, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("features", [2, 5, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_log_determinants_are_autograds_in_any_dimension(kind: str, features: int) -> None:
    transform = bent(features, kind, CONTEXT)
    u = 3 * torch.randn(features, dtype=torch.float64)
    slopes = torch.func.jacrev(lambda u: transform.call_and_ladj(u)[0])(u)
    expected = torch.linalg.slogdet(slopes).logabsdet
    assert expected.abs() > 1e-3
    torch.testing.assert_close(transform.call_and_ladj(u)[1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_integrates_to_one(kind: str) -> None:
    transform = bent(2, kind, scale=0.15)
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    u, ladj = transform.inverse_and_ladj(torch.cartesian_prod(axis, axis))
    log_p = -0.5 * u.square().sum(-1) - math.log(2 * math.pi)
    assert ladj.std() > 0.1, "the flow bends"
    area = (axis[1] - axis[0]) ** 2
    assert ((log_p - ladj).exp().sum() * area).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("make", EVERY)
def test_samples_and_examples_may_both_be_batched(make: str) -> None:
    transform = EVERY[make]()
    u = torch.randn(5, 7, 3, dtype=torch.float64)
    for call in (transform.call_and_ladj, transform.inverse_and_ladj):
        value, ladj = call(u)
        assert (value.shape, ladj.shape) == ((5, 7, 3), (5, 7))
        one, one_ladj = call(u[2, 3])
        torch.testing.assert_close(value[2, 3], one)
        torch.testing.assert_close(ladj[2, 3], one_ladj)


@pytest.mark.parametrize("make", EVERY)
def test_torchs_own_calls_agree(make: str) -> None:
    transform = EVERY[make]()
    u = torch.randn(5, 3, dtype=torch.float64)
    z, ladj = transform.call_and_ladj(u)
    assert torch.equal(transform(u), z)
    torch.testing.assert_close(transform.inv(z), u)
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, z), ladj)
    torch.testing.assert_close(transform.inv.log_abs_det_jacobian(z, u), -ladj)
    assert transform.domain is transform.codomain is constraints.real_vector
    assert transform.bijective and transform.forward_shape((5, 3)) == (5, 3)


@pytest.mark.parametrize("features", [2, 3, 7])
@pytest.mark.parametrize(("kind", "each"), [(AffineCoupling, 2), (SplineCoupling, 3 * BINS - 1)])
def test_a_coupling_changes_its_second_part_by_its_first(
    kind: type[Coupling], each: int, features: int
) -> None:
    size = features // 2
    transform = coupling(kind, each, size, features)
    u = torch.randn(features, dtype=torch.float64)
    slopes = torch.func.jacrev(lambda u: transform.call_and_ladj(u)[0])(u)
    assert torch.equal(slopes[:size], torch.eye(features, dtype=torch.float64)[:size])
    assert (slopes[size:, :size] != 0).all(), "every part of a moves every part of b"
    within = slopes[size:, size:]
    assert torch.equal(within, torch.diag(within.diagonal())) and (within.diagonal() > 0).all()


# --- far out and saturated --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [0.0, 1.0, 3.0, 1e4])
@pytest.mark.parametrize(("kind", "each"), [(AffineCoupling, 2), (SplineCoupling, 3 * BINS - 1)])
def test_saturated_scales_stay_finite(
    kind: type[Coupling], each: int, raw: float, dtype: torch.dtype
) -> None:
    # 0 is no coupling at all, 3 saturates by half, 1e4 wholly; each with every mix of signs.
    signs = torch.randint(-1, 2, (200, each)).to(dtype)
    theta = (raw * signs).requires_grad_()
    b = torch.linspace(-1.2 * BOX, 1.2 * BOX, 200, dtype=dtype)[:, None].requires_grad_()
    for g in (kind.forward, kind.backward):
        value, log_slope = g(b, theta)
        assert value.isfinite().all() and log_slope.isfinite().all()
        for gradient in torch.autograd.grad(value.sum() + log_slope.sum(), [b, theta]):
            assert gradient.isfinite().all()


def test_a_coupling_stretches_at_most_by_its_bound() -> None:
    theta = torch.tensor([[0.0, 1e4], [0.0, -1e4]])
    _, log_slope = AffineCoupling.forward(torch.ones(2, 1), theta)
    assert log_slope.flatten().tolist() == [LOG_SCALE_BOUND, -LOG_SCALE_BOUND]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_inputs_stay_finite(kind: str, dtype: torch.dtype) -> None:
    transform = bent(3, kind, CONTEXT, dtype)
    corners = list(itertools.product([-1e4, 0.0, 1e4], repeat=3))
    points = torch.tensor(corners, dtype=dtype, requires_grad=True)
    for call in (transform.call_and_ladj, transform.inverse_and_ladj):
        value, ladj = call(points)
        assert value.isfinite().all() and ladj.isfinite().all()
        (gradient,) = torch.autograd.grad(value.sum() + ladj.sum(), points)
        assert gradient.isfinite().all() and gradient.any()


# --- the spline -------------------------------------------------------------------------------


def random_knots(*shape: int) -> tuple[Tensor, Tensor]:
    return spline_knots(1.5 * torch.randn(3 * BINS - 1, *shape, dtype=torch.float64))


def test_zeros_are_the_identity_spline() -> None:
    corners, slopes = spline_knots(torch.zeros(3 * BINS - 1, 1, dtype=torch.float64))
    assert (corners.shape, slopes.shape) == ((2, BINS + 1, 1), (BINS + 1, 1))
    even = torch.linspace(-BOX, BOX, BINS + 1, dtype=torch.float64)
    torch.testing.assert_close(corners.squeeze(-1), even.expand(2, -1), rtol=0, atol=1e-14)
    assert torch.equal(slopes, torch.ones_like(slopes))
    u = torch.linspace(-7, 7, 300, dtype=torch.float64)
    for inverse in (False, True):
        z, log_slope = rational_quadratic_spline(u, corners, slopes, inverse)
        torch.testing.assert_close(z, u, rtol=0, atol=1e-13)
        torch.testing.assert_close(log_slope, torch.zeros_like(u), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_knots_ascend_from_end_to_end_and_keep_their_least_distance(
    dtype: torch.dtype, scale: float
) -> None:
    corners, slopes = spline_knots(scale * torch.randn(3 * BINS - 1, 500, dtype=dtype))
    assert (corners[:, 0] == -BOX).all() and (corners[:, -1] == BOX).all()
    assert corners.diff(dim=1).min() > 2 * BOX * LEAST_BIN * (1 - 1e-5)
    assert (slopes[0] == 1).all() and (slopes[-1] == 1).all()
    # Relative to float32's rounding of e².
    assert slopes.log().abs().max() <= LOG_SCALE_BOUND * (1 + 1e-6)
    if scale > 1:
        share = corners.diff(dim=1).min().item() / (2 * BOX)
        assert share == pytest.approx(LEAST_BIN, rel=1e-4), "and it is reached"


def test_widths_come_first_then_heights_then_slopes() -> None:
    # A wider first bin along u, then a higher last one along z, then a steep third knot.
    raw = torch.zeros(3 * BINS - 1, 3, dtype=torch.float64)
    raw[0, 0] = raw[2 * BINS - 1, 1] = raw[2 * BINS + 1, 2] = 1
    corners, slopes = spline_knots(raw)
    even = 2 * BOX / BINS
    assert corners[0, :, 0].diff()[0] > even + 0.5 and corners[1, :, 1].diff()[-1] > even + 0.5
    expected = torch.ones(BINS + 1, dtype=torch.float64)
    expected[2] = math.exp(LOG_SCALE_BOUND * math.tanh(1))
    torch.testing.assert_close(slopes[:, 2], expected)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_spline_passes_its_knots_with_its_slopes_and_has_no_kink(inverse: bool) -> None:
    corners, slopes = random_knots(50)
    u, z = corners
    start, goal = (z, u) if inverse else (u, z)
    for nudge in (0.0, 1e-11, -1e-11):
        value, log_slope = rational_quadratic_spline(
            start + nudge, corners.unsqueeze(2), slopes.unsqueeze(1), inverse
        )
        torch.testing.assert_close(value, goal, rtol=0, atol=1e-7)
        torch.testing.assert_close(log_slope, slopes.log(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("where", [slice(1, -1), [0, -1]], ids=["inner knots", "ends"])
def test_autograds_slope_at_a_knot_is_the_splines(where: slice | list[int], inverse: bool) -> None:
    corners, slopes = random_knots(50)
    start = corners[int(inverse), where].clone().requires_grad_()
    raw = (corners.clone().requires_grad_(), slopes.clone().requires_grad_())
    value, log_slope = rational_quadratic_spline(
        start, raw[0].unsqueeze(2), raw[1].unsqueeze(1), inverse
    )
    for gradient in torch.autograd.grad(log_slope.sum(), [start, *raw], retain_graph=True):
        assert gradient.isfinite().all()
    (found,) = torch.autograd.grad(value.sum(), start)
    expected = slopes[where].reciprocal() if inverse else slopes[where]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_outside_its_box_a_spline_is_the_identity_whatever_its_knots() -> None:
    knots = [knot.requires_grad_() for knot in random_knots(500, 1)]
    far = torch.tensor([-1e200, -1e4, -BOX - 1e-6, BOX + 1e-6, 1e4, 1e200], dtype=torch.float64)
    far = far.expand(500, 6).requires_grad_()
    corners, slopes = knots
    for inverse in (False, True):
        value, log_slope = rational_quadratic_spline(far, corners, slopes, inverse)
        assert torch.equal(value, far) and not log_slope.any()
        # The branch that is not taken must not spoil the gradient with 0 times infinity.
        gradients = torch.autograd.grad(value.sum() + log_slope.sum(), [far, *knots])
        assert torch.equal(gradients[0], torch.ones_like(far))
        assert not gradients[1].any() and not gradients[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_strongly_bent_spline_is_inverted_as_well_as_its_digits_allow(
    dtype: torch.dtype,
) -> None:
    raw = 3 * torch.randn(3 * BINS - 1, 5000, dtype=dtype)
    corners, slopes = spline_knots(raw)
    u = 2 * BOX * torch.rand(5000, dtype=dtype) - BOX
    z, log_slope = rational_quadratic_spline(u, corners, slopes)
    back, _ = rational_quadratic_spline(z, corners, slopes, inverse=True)
    # Rounding z moves u by as much divided by the slope; the formula rounds some dozen times.
    limit = torch.finfo(dtype).eps * BOX * (1 + (-log_slope).exp())
    assert ((back - u).abs() / limit).max() < 100


@pytest.mark.parametrize("inverse", [False, True])
def test_the_spline_is_zukos_in_value_log_determinant_and_gradient(
    zuko: ModuleType, inverse: bool
) -> None:
    n = 2000
    theirs = zuko.transforms.MonotonicRQSTransform(
        *(2 * torch.randn(n, k, dtype=torch.float64) for k in (BINS, BINS, BINS - 1)), bound=BOX
    )
    knots = [theirs.horizontal, theirs.vertical, theirs.derivatives]
    theirs.horizontal, theirs.vertical, theirs.derivatives = knots = [
        k.detach().requires_grad_() for k in knots
    ]
    value = (14 * torch.rand(n, dtype=torch.float64) - 7).requires_grad_()
    inside = value.abs() < BOX
    assert 0.5 < inside.double().mean() < 0.9
    if inverse:
        expected = theirs._inverse(value)
        expected_ladj = theirs.call_and_ladj(expected)[1]
    else:
        expected, expected_ladj = theirs.call_and_ladj(value)
    corners = torch.stack(knots[:2]).mT
    found, ladj = rational_quadratic_spline(value, corners, knots[2].mT, inverse)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(ladj, expected_ladj, rtol=0, atol=1e-7)
    # Of both outputs at once, weighed at random so that nothing cancels.
    weight = torch.randn(2, n, dtype=torch.float64)

    def slopes(value_: Tensor, ladj_: Tensor) -> tuple[Tensor, ...]:
        total = (weight[0] * value_ + weight[1] * ladj_).sum()
        return torch.autograd.grad(total, [value, *knots])

    for mine, reference in zip(slopes(found, ladj), slopes(expected, expected_ladj), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)
        assert reference.abs().max() > 0.1
