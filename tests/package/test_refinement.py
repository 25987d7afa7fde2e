"""Refinement against closed forms: ascent that never falls, Langevin with a known target."""

import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import flowvae_tutorial.refinement
from flowvae_tutorial import (
    CouplingFlow,
    InputError,
    StandardNormal,
    Trace,
    build,
    fit_reward,
    refine,
    refine_with_trace,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.models import BOOK_MODELS, MODELS, RINGS, Sizes

Density = Callable[[Tensor], Tensor]


def standard_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def sharp(z: Tensor) -> Tensor:
    """N(0, 0.01²): a fixed step above 0.0002 runs away."""
    return standard_normal(z / 0.01)


def banana(z: Tensor) -> Tensor:
    return -0.5 * z[:, 0] ** 2 - 2 * (z[:, 1] - z[:, 0] ** 2) ** 2


def first(z: Tensor) -> Tensor:
    return 3 * z[:, 0].sin()


SIZES = Sizes(
    latent=2, hidden=(16,), components=4, pseudo_inputs=5, transforms=4, flow_hidden=(16,)
)


@torch.no_grad()
def prior_of(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A small prior whose flows are no identity."""
    vae = MODELS[name](load("rings"), SIZES).to(dtype)
    for module in vae.modules():
        if isinstance(module, CouplingFlow):
            for parameter in module.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
    return vae.prior


def objective(trace: Trace, anchor: float) -> Tensor:
    return trace.log_prob + trace.reward - anchor * trace.distance.square()


def never_falls(trace: Trace, anchor: float, atol: float = 1e-9) -> bool:
    return bool((objective(trace, anchor).diff(dim=0) >= -atol).all())


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# --- each latent on its own -------------------------------------------------------------------

PRIORS = [
    "gaussian", "mixture", "vampprior", "hvae", "hierarchical-vampprior", "flow-prior",
    "spline-flow-prior", "hierarchical-flow-prior", "vampprior-flow-posterior",
]  # fmt: skip


@pytest.mark.parametrize("reward", [None, first])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", PRIORS)
def test_a_latent_ends_where_it_ends_alone(
    name: str, dtype: torch.dtype, atol: float, reward: Density | None
) -> None:
    prior = prior_of(name, dtype)()
    with torch.no_grad():
        z = prior.sample((1024,))
    # Where a step and its half are equally good, float32's rounding decides, and differs with the
    # number of latents. Under a sharp prior such ties come up; small steps need no halving.
    sharp = name == "spline-flow-prior" and dtype == torch.float32
    lr = 0.02 if sharp else 0.1
    together = refine(z, prior.log_prob, reward, lr=lr)
    assert (together - z).norm(dim=-1).mean() > 0.1, "they do move"
    for n in (1, 7):
        found = refine(z[-n:], prior.log_prob, reward, lr=lr)
        torch.testing.assert_close(found, together[-n:], rtol=0, atol=atol)


@pytest.mark.parametrize("n", [1, 7, 1024])
def test_a_step_is_lr_times_the_gradient_whatever_the_number(n: int) -> None:
    z = draw(n, 16)
    torch.testing.assert_close(refine(z, standard_normal, steps=1, lr=0.1), 0.9 * z)


def test_ten_steps_at_1024_latents_move_them_by_what_was_meant() -> None:
    z = draw(1024, 16)
    moved = (refine(z, standard_normal, steps=10, lr=0.02, anchor=0) - z).norm(dim=-1)
    torch.testing.assert_close(moved, (1 - 0.98**10) * z.norm(dim=-1))


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [0.0, 0.1, 0.5, 3.0])
def test_the_fixed_point_under_a_standard_normal_is_between_start_and_mode(anchor: float) -> None:
    z = draw(20, 3)
    end = refine(z, standard_normal, steps=400, lr=0.1, anchor=anchor)
    torch.testing.assert_close(end, z * 2 * anchor / (1 + 2 * anchor), rtol=0, atol=1e-7)


def test_steps_under_a_standard_normal_are_the_linear_recursion() -> None:
    z, lr, anchor = draw(20, 3), 0.05, 0.3
    expected = z
    for steps in range(6):
        found = refine(z, standard_normal, steps=steps, lr=lr, anchor=anchor)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        expected = (1 - lr * (1 + 2 * anchor)) * expected + lr * 2 * anchor * z


def test_without_an_anchor_a_mixtures_latents_go_to_a_mode_each() -> None:
    centres = torch.tensor([[-3.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    mixture = MixtureSameFamily(
        Categorical(torch.ones(2)), Independent(Normal(centres, 0.5 * torch.ones(2, 2)), 1)
    )
    z = centres.repeat(10, 1) + 0.5 * draw(20, 2)
    end = refine(z, mixture.log_prob, steps=200, anchor=0)
    torch.testing.assert_close(end, centres.repeat(10, 1), rtol=0, atol=1e-4)


def test_small_steps_are_autograds_gradient_ascent() -> None:
    z, lr, anchor = draw(9, 2), 0.01, 0.2
    at = z.clone().requires_grad_()
    ascent = torch.optim.SGD([at], lr=lr, maximize=True)
    for _ in range(20):
        ascent.zero_grad()
        (banana(at) + first(at) - anchor * (at - z).square().sum(-1)).sum().backward()
        ascent.step()
    found = refine(z, banana, first, steps=20, lr=lr, anchor=anchor)
    torch.testing.assert_close(found, at.detach(), rtol=0, atol=1e-12)


# --- never downhill ---------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [None, first])
@pytest.mark.parametrize("anchor", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("lr", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("log_prob", [standard_normal, sharp, banana])
def test_no_latent_is_ever_worse_off(
    log_prob: Density, lr: float, anchor: float, reward: Density | None
) -> None:
    z = draw(50, 2)
    end, trace = refine_with_trace(z, log_prob, reward, steps=30, lr=lr, anchor=anchor)
    assert never_falls(trace, anchor)
    gained = objective(trace, anchor)[-1] - objective(trace, anchor)[0]
    assert (gained > 0).all()
    assert end.isfinite().all()


def test_a_step_too_long_for_a_sharp_density_still_finds_its_mode() -> None:
    # A step of 1 would multiply the distance by 9,999.
    end = refine(draw(50, 2), sharp, steps=60, lr=1, anchor=0)
    assert end.abs().max() < 1e-3


@pytest.mark.parametrize("name", PRIORS)
def test_no_latent_is_ever_worse_off_under_any_prior_of_the_book(name: str) -> None:
    prior = prior_of(name)
    with torch.no_grad():
        z = prior().sample((200,))
    for lr, anchor in ((0.1, 0.1), (3.0, 0.0)):
        _, trace = refine_with_trace(z, prior().log_prob, steps=20, lr=lr, anchor=anchor)
        assert never_falls(trace, anchor)
        assert (trace.log_prob[-1] > trace.log_prob[0]).double().mean() > 0.95
        assert trace.log_prob[-1].mean() > trace.log_prob[0].mean() + 0.3


def test_no_latent_is_ever_worse_off_under_a_spline_flow_of_16_dimensions() -> None:
    flow = CouplingFlow(16, transforms=4, hidden=(16,), kind="spline").double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        z = flow().sample((50,))
    _, trace = refine_with_trace(z, flow().log_prob, steps=20, lr=0.3)
    assert never_falls(trace, 0.1)
    assert trace.log_prob[-1].mean() > trace.log_prob[0].mean() + 2


@pytest.mark.parametrize("name", ["NSF", "MAF"])
def test_no_latent_is_ever_worse_off_under_zukos_flows(zuko: ModuleType, name: str) -> None:
    flow = getattr(zuko.flows, name)(3, transforms=2, hidden_features=(8,)).double()
    z = draw(50, 3)
    end, trace = refine_with_trace(z, flow().log_prob)
    assert never_falls(trace, 0.1)
    assert trace.log_prob[-1].mean() > trace.log_prob[0].mean() + 0.3
    torch.testing.assert_close(refine(z[:1], flow().log_prob), end[:1], rtol=0, atol=1e-9)


def test_a_density_that_ends_is_climbed_up_to_its_edge() -> None:
    def ramp(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] <= 1, z[:, 0], math.nan)

    end = refine(torch.zeros(3, 1, dtype=torch.float64), ramp, steps=40, lr=0.3, anchor=0)
    assert (end <= 1).all()
    torch.testing.assert_close(end, torch.ones_like(end), rtol=0, atol=1e-6)


def test_a_latent_that_had_to_shorten_a_step_pays_for_it_once() -> None:
    rows = 0

    def counted(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return sharp(z)

    refine(draw(10, 2), counted, steps=100, lr=1)
    # A gradient, a value, and now and then one more; 13 halvings once.
    assert rows / 10 < 100 * 3 + 13


def test_a_step_that_was_shortened_grows_again() -> None:
    def slopes(z: Tensor) -> Tensor:
        """1,000 below 0, then 1, and an end at 40."""
        height = torch.where(z[:, 0] < 0, 1000 * z[:, 0], z[:, 0])
        return torch.where(z[:, 0] <= 40, height, math.nan)

    start = torch.tensor([[-0.5]], dtype=torch.float64)
    # 100 and 50 lead over the edge, 25 does not: a rate of 0.025, then 0.05, then 0.1 for good.
    for steps, expected in enumerate([-0.5, 24.5, 24.55, 24.65, 24.75]):
        z = refine(start, slopes, steps=steps, lr=0.1, anchor=0)
        assert z.item() == pytest.approx(expected, abs=1e-9)


# --- what is left alone -----------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_the_model_and_the_random_state_are_left_as_they_were(name: str) -> None:
    vae = MODELS[name](load("rings"), RINGS)
    vae.prior.eval()
    vae.posterior.requires_grad_(False)
    before = [(p.requires_grad, p.clone()) for p in vae.parameters()]
    modes = [module.training for module in vae.modules()]
    z = vae.prior().sample((5,))
    state = torch.get_rng_state()
    refine(z, vae.prior().log_prob, first, steps=3)
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in vae.modules()] == modes
    for (needs, value), parameter in zip(before, vae.parameters(), strict=True):
        assert parameter.grad is None and parameter.requires_grad == needs
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept_and_no_graph_is_left(dtype: torch.dtype, temperature: float) -> None:
    z = torch.randn(5, 2, dtype=dtype)
    end, trace = refine_with_trace(z, standard_normal, steps=2, temperature=temperature)
    for value in (end, *trace):
        assert value.dtype == dtype and not value.requires_grad


@pytest.mark.parametrize("steps", [0, 3])
def test_the_latents_given_are_not_written_to(steps: int) -> None:
    z = draw(5, 2)
    kept = z.clone()
    end = refine(z, standard_normal, steps=steps)
    end.zero_()
    assert torch.equal(z, kept)


def test_latents_with_a_graph_and_callers_without_one_are_served_alike() -> None:
    z = draw(5, 2)
    expected = refine(z, banana)
    leaf = z.clone().requires_grad_()
    assert torch.equal(refine(leaf * 1, banana), expected)
    assert leaf.grad is None
    with torch.no_grad():
        assert torch.equal(refine(z, banana), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        made = z.clone()
    assert torch.equal(refine(made, banana), expected)


def test_no_steps_give_the_latents_back() -> None:
    z = draw(5, 2)
    end, trace = refine_with_trace(z, standard_normal, steps=0)
    assert torch.equal(end, z)
    assert [tuple(values.shape) for values in trace] == [(1, 5)] * 3 + [(0, 5)]


def test_no_latents_are_refined_to_none() -> None:
    end, trace = refine_with_trace(draw(0, 2), standard_normal, steps=3)
    assert end.shape == (0, 2) and trace.log_prob.shape == (4, 0)


# --- trace and chunks -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_the_trace_has_a_row_before_and_after_each_step(temperature: float) -> None:
    z = draw(7, 2)
    torch.manual_seed(1)
    end, trace = refine_with_trace(z, banana, first, steps=4, temperature=temperature)
    for steps in range(5):
        torch.manual_seed(1)
        at = refine(z, banana, first, steps=steps, temperature=temperature)
        rows = [values[steps] for values in trace[:3]]
        for row, expected in zip(rows, [banana(at), first(at), (at - z).norm(dim=-1)], strict=True):
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)
    assert torch.equal(end, at)
    assert [tuple(values.shape) for values in trace] == [(5, 7)] * 3 + [(4, 7)]


def test_without_a_reward_its_trace_is_zero() -> None:
    assert not refine_with_trace(draw(3, 2), banana).trace.reward.any()


def test_the_trace_of_refused_moves_is_of_where_the_latent_stays() -> None:
    z = draw(200, 2)
    end, trace = refine_with_trace(z, banana, steps=3, lr=0.1, temperature=1, metropolis=True)
    torch.testing.assert_close(trace.log_prob[-1], banana(end))
    stayed = trace.distance[1] == 0
    assert 0.1 < stayed.double().mean() < 0.9
    assert torch.equal(trace.log_prob[1, stayed], trace.log_prob[0, stayed])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = draw(30, 2)
    whole = refine_with_trace(z, banana, first, lr=1)
    monkeypatch.setattr(flowvae_tutorial.refinement, "CHUNK", 7)
    parts = refine_with_trace(z, banana, first, lr=1)
    torch.testing.assert_close(parts.z, whole.z, rtol=0, atol=1e-9)
    for part, expected in zip(parts.trace, whole.trace, strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-9)


def test_100_000_latents_never_meet_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()

    def watched(z: Tensor) -> Tensor:
        sizes.add(len(z))
        return standard_normal(z)

    z = torch.randn(100_000, 16)
    end = refine(z, watched, steps=3)
    assert max(sizes) == flowvae_tutorial.refinement.CHUNK <= 10_000
    monkeypatch.setattr(flowvae_tutorial.refinement, "CHUNK", 100_000)
    torch.testing.assert_close(end, refine(z, standard_normal, steps=3), rtol=0, atol=1e-5)


# --- Langevin ---------------------------------------------------------------------------------


def within_3_errors(values: Tensor, mean: float, variance: float) -> bool:
    """Whether independent values have this mean and variance; of any distribution."""
    n, centred = len(values), values - values.mean()
    mean_error = values.std() / n**0.5
    variance_error = centred.square().std() / n**0.5
    at_mean = (values.mean() - mean).abs() < 3 * mean_error
    return bool(at_mean & ((values.var() - variance).abs() < 3 * variance_error))


def test_langevin_without_correction_is_too_wide_by_the_closed_form() -> None:
    # z′ = (1 − lr) z + √(2 lr) ε has variance 2 lr / (1 − (1 − lr)²) = 1 / (1 − lr / 2).
    for lr in (0.1, 0.5, 1.0):
        z = refine(draw(20_000, 1), standard_normal, steps=60, lr=lr, anchor=0, temperature=1)
        assert within_3_errors(z[:, 0], 0, 1 / (1 - lr / 2))
        assert lr == 0.1 or not within_3_errors(z[:, 0], 0, 1)


def test_with_metropolis_a_correlated_gaussian_is_exact() -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    log_prob = MultivariateNormal(mean, covariance).log_prob
    rough: dict[str, Any] = {"steps": 150, "lr": 0.2, "anchor": 0, "temperature": 1}
    z = refine(3 * draw(8000, 2), log_prob, metropolis=True, **rough)
    for axis in (0, 1):
        assert within_3_errors(z[:, axis], mean[axis].item(), 1)
    # Narrow and wide, along the two diagonals.
    for sign, variance in ((-1, 0.4), (1, 3.6)):
        along = z[:, 0] + sign * z[:, 1]
        assert within_3_errors(along, (mean[0] + sign * mean[1]).item(), variance)
    without = refine(3 * draw(8000, 2), log_prob, **rough)
    assert not within_3_errors(without[:, 0] - without[:, 1], 3, 0.4), "the check can fail"


def test_with_metropolis_two_modes_get_their_weights() -> None:
    log_prob = MixtureSameFamily(
        Categorical(torch.tensor([0.3, 0.7])),
        Independent(Normal(torch.tensor([[-1.2], [1.2]]).double(), 0.5), 1),
    ).log_prob
    start = torch.full((8000, 1), -1.2, dtype=torch.float64)
    z = refine(start, log_prob, steps=300, lr=0.2, anchor=0, temperature=1, metropolis=True)
    mean = 0.4 * 1.2
    assert within_3_errors(z[:, 0], mean, 0.25 + 1.44 - mean**2)
    assert (z < 0).double().mean().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("anchor", [0.0, 0.5])
def test_the_target_is_the_objective_over_the_temperature(
    temperature: float, anchor: float
) -> None:
    def reward(z: Tensor) -> Tensor:
        return 0.7 * z[:, 0]

    start = torch.full((8000, 1), 2.0, dtype=torch.float64)
    z = refine(
        start, standard_normal, reward,
        steps=100, lr=0.2, anchor=anchor, temperature=temperature, metropolis=True,
    )  # fmt: skip
    precision = 1 + 2 * anchor
    mean = (0.7 + 2 * anchor * 2.0) / precision
    assert within_3_errors(z[:, 0], mean, temperature / precision)


def test_a_warm_refinement_repeats_with_its_seed_only() -> None:
    z = draw(5, 2)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(refine(z, standard_normal, temperature=0.5))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# --- VAE.sample -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "vampprior", "hvae", "spline-flow-prior"])
def test_samples_refined_by_no_step_are_the_plain_ones(name: str) -> None:
    vae = build(name, load("rings"))
    torch.manual_seed(1)
    plain = vae.sample(9)
    torch.manual_seed(1)
    assert torch.equal(vae.sample(9, refine_steps=0, refine_lr=9, anchor=9), plain)


@pytest.mark.parametrize("name", ["gaussian", "vampprior", "hvae", "spline-flow-prior"])
def test_samples_are_decoded_from_refined_latents(name: str) -> None:
    vae = build(name, load("rings"))
    decoded: list[Tensor] = []
    vae.likelihood.register_forward_hook(lambda module, inputs, output: decoded.append(*inputs))
    for steps in (0, 5):
        torch.manual_seed(1)
        x = vae.sample(300, refine_steps=steps, refine_lr=0.2, anchor=0.3)
        assert x.shape == (300, 2) and not x.requires_grad
    plain, refined = (z.squeeze(0) for z in decoded)
    log_prob = vae.prior().log_prob
    expected = refine(plain, log_prob, steps=5, lr=0.2, anchor=0.3)
    torch.testing.assert_close(refined, expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert log_prob(refined).mean() > log_prob(plain).mean() + 0.3


def test_samples_refined_by_fewer_than_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match=r"steps must be from 0 .* got -1"):
        build("gaussian", load("rings")).sample(3, refine_steps=-1)


# --- rewards ----------------------------------------------------------------------------------


def test_any_callable_is_a_reward() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0)).double()
    z = draw(50, 2)
    for reward in (first, net, lambda z: -(z - 2).abs().sum(-1)):
        _, trace = refine_with_trace(z, standard_normal, reward, steps=20)
        assert never_falls(trace, 0.1)
        with torch.no_grad():
            torch.testing.assert_close(trace.reward[0], reward(z))
        assert trace.reward[-1].mean() > trace.reward[0].mean()
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_reward_is_added_to_log_p() -> None:
    end = refine(draw(9, 2), standard_normal, lambda z: 2 * z[:, 1], steps=300, anchor=0)
    expected = torch.tensor([[0.0, 2.0]], dtype=torch.float64).expand(9, 2)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reward_fitted_to_booleans_is_a_log_probability(dtype: torch.dtype) -> None:
    z = torch.randn(1000, 4).to(dtype)
    reward = fit_reward(z[:800], (z[:, 0] > z[:, 1])[:800])
    value = reward(z[800:])
    assert value.shape == (200,) and value.dtype == dtype
    assert (value <= 0).all()
    right = (value.exp() > 0.5) == (z[:, 0] > z[:, 1])[800:]
    assert right.double().mean() > 0.95
    assert not any(p.requires_grad for p in reward.parameters())


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_a_reward_fitted_to_numbers_is_in_standard_deviations(dtype: torch.dtype) -> None:
    z = draw(1000, 4)
    target = (100 + 30 * z[:, 0] - 20 * z[:, 1]).to(dtype)
    value = fit_reward(z[:800], target[:800])(z[800:])
    expected = (target[800:] - target[:800].double().mean()) / target[:800].double().std()
    assert (value - expected).square().mean() < 0.05


@pytest.mark.parametrize("boolean", [True, False])
def test_a_fitted_reward_rises_under_refinement(boolean: bool) -> None:
    z = draw(600, 2)
    target = z[:, 0] > 1 if boolean else z[:, 0] + z[:, 1]
    reward = fit_reward(z, target)
    _, trace = refine_with_trace(z, standard_normal, reward, steps=30)
    assert never_falls(trace, 0.1)
    plain = refine(z, standard_normal, steps=30)
    assert trace.reward[-1].mean() > trace.reward[0].mean() + 0.1
    assert trace.reward[-1].mean() > reward(plain).mean() + 0.1


def test_a_reward_is_fitted_to_an_encoders_latents_without_a_gradient_in_it() -> None:
    encoder = nn.Linear(3, 2)
    z = encoder(torch.randn(300, 3))
    fit_reward(z, z[:, 0])
    assert all(p.grad is None for p in encoder.parameters())


# --- mistakes ---------------------------------------------------------------------------------


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"steps": -1}, "got -1"), ({"lr": 0.0}, "got 0.0"), ({"lr": -0.1}, "got -0.1"),
     ({"lr": math.nan}, "got nan"), ({"lr": math.inf}, "got inf"), ({"anchor": -1.0}, "got -1.0"),
     ({"anchor": math.nan}, "got nan"), ({"anchor": math.inf}, "got inf"),
     ({"temperature": -0.5}, "got -0.5"), ({"temperature": math.nan}, "got nan"),
     ({"temperature": math.inf}, "got inf"), ({"metropolis": True}, "temperature above 0")],
)  # fmt: skip
def test_an_argument_that_makes_no_sense_is_refused(arguments: dict[str, Any], says: str) -> None:
    message = refusal(lambda: refine(draw(3, 2), standard_normal, **arguments))
    assert says in message and (message.split()[0] in arguments or "metropolis" in arguments)


@pytest.mark.parametrize(
    ("z", "says"),
    [(torch.zeros(2), "(2,)"), (torch.zeros(2, 3, 4), "(2, 3, 4)"),
     (torch.zeros(3, 2, dtype=torch.int64), "int64"),
     (torch.tensor([[0.0, math.nan]]), "NaN"), (torch.tensor([[0.0, math.inf]]), "infinite")],
)  # fmt: skip
def test_latents_of_the_wrong_kind_are_refused(z: Tensor, says: str) -> None:
    assert says in refusal(lambda: refine(z, standard_normal))


def test_inference_mode_is_refused_because_it_has_no_gradients() -> None:
    with torch.inference_mode():
        assert "inference_mode" in refusal(lambda: refine(torch.zeros(3, 2), standard_normal))


def both_places(function: Density) -> Iterable[tuple[str, tuple[Density, ...]]]:
    return [("log_prob", (function,)), ("reward", (standard_normal, function))]


@pytest.mark.parametrize(
    ("function", "shape"),
    [(lambda z: -z.square(), "(5, 2)"), (lambda z: -z.square().sum(), "()"),
     (lambda z: -z.square().sum(-1, keepdim=True), "(5, 1)")],
)  # fmt: skip
def test_a_value_that_is_not_one_number_a_latent_is_refused(function: Density, shape: str) -> None:
    for name, functions in both_places(function):
        said = refusal(lambda functions=functions: refine(draw(5, 2), *functions))  # type: ignore[misc]
        assert said.startswith(f"{name} must give") and "(5,)" in said and said.endswith(shape)


def test_a_value_without_a_gradient_is_refused() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def under_no_grad(z: Tensor) -> Tensor:
        with torch.no_grad():
            return standard_normal(z)

    # The last has a graph, and one that does not lead to z.
    detached = [lambda z: standard_normal(z.detach()), under_no_grad, lambda z: z.detach() @ weight]
    for function in detached:
        for name, functions in both_places(function):
            said = refusal(lambda functions=functions: refine(draw(5, 2), *functions))  # type: ignore[misc]
            assert said.startswith(f"{name} gives no gradient")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_value_that_is_not_finite_stops_at_once_and_says_where(
    temperature: float, bad: float
) -> None:
    z = torch.linspace(-1.1, 0.9, 5, dtype=torch.float64).unsqueeze(-1)

    def holed(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] < 0, bad, standard_normal(z))

    for name, functions in both_places(holed):
        said = refusal(lambda functions=functions: refine(z, *functions, temperature=temperature))  # type: ignore[misc]
        assert said.startswith(f"{name} is not finite at step 0 for 3 of 5 latents")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_value_that_turns_nan_on_the_way_names_the_step(temperature: float) -> None:
    calls = 0

    def spoilt(z: Tensor) -> Tensor:
        nonlocal calls
        value = standard_normal(z)
        calls += z.requires_grad
        return value.where(torch.arange(len(z)) > 1, math.nan) if calls == 4 else value

    said = refusal(lambda: refine(draw(5, 2), standard_normal, spoilt, temperature=temperature))
    assert said.startswith("reward is not finite at step 3 for 2 of 5 latents")


def test_a_gradient_that_is_not_finite_is_named() -> None:
    z = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    said = refusal(lambda: refine(z, lambda z: -z.abs().sqrt().sum(-1)))
    assert said.startswith("the gradient is not finite at step 0 for 2 of 3 latents")


@pytest.mark.parametrize(
    ("z", "target", "says"),
    [(torch.zeros(4), torch.arange(4), "(4,)"), (torch.zeros(4, 2), torch.arange(3), "(3,)"),
     (torch.zeros(4, 2), torch.zeros(4, 1), "(4, 1)"),
     (torch.zeros(1, 2), torch.zeros(1), "two different"),
     (torch.zeros(0, 2), torch.zeros(0), "two different"),
     (torch.zeros(4, 2), torch.ones(4), "two different"),
     (torch.zeros(4, 2), torch.ones(4) > 0, "two different"),
     (torch.zeros(4, 2, dtype=torch.int64), torch.arange(4), "floating-point"),
     (torch.full((4, 2), math.nan), torch.arange(4), "NaN"),
     (torch.zeros(4, 2), torch.tensor([0.0, 1.0, math.inf, 2.0]), "infinite")],
)  # fmt: skip
def test_a_reward_cannot_be_fitted_to_this(z: Tensor, target: Tensor, says: str) -> None:
    assert says in refusal(lambda: fit_reward(z, target))


def test_a_refused_refinement_leaves_the_latents_as_they_were() -> None:
    z = draw(5, 2)
    kept = z.clone()
    refusal(lambda: refine(z, lambda z: z[:, 0].log()))
    assert torch.equal(z, kept)


def test_the_standard_normal_of_the_package_is_the_one_of_these_tests() -> None:
    z = draw(5, 3)
    torch.testing.assert_close(StandardNormal(3).double()().log_prob(z), standard_normal(z))
