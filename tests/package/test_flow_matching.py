"""The flow in continuous time: divergence, density, solver, loss, and the two stages of a VAE."""

import math

import pytest
import torch
import zuko
from torch import Tensor
from torch.distributions import Independent, Normal

from flowvae_tutorial import Flow, FlowMatchingPrior, InputError, build, fit, rsample_and_log_prob
from flowvae_tutorial.data import load
from flowvae_tutorial.flow_matching import ContinuousFlow, VelocityField
from flowvae_tutorial.flows import standard_normal

D = 3


@pytest.fixture
def prior() -> FlowMatchingPrior:
    """One that is far from the identity, in float64."""
    torch.manual_seed(0)
    prior = FlowMatchingPrior(D, (16, 12), steps=64).double()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return prior


class Straight(VelocityField):
    """The velocity of straight paths from N(0, I) to N(m, s²), in closed form.

    z_t has the mean t m and the variance c = (1 − t)² + t² s² in each dimension, so that
    E[code − u | z_t] = m + (t s² − 1 + t) (z_t − t m) / c.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__(len(mean))
        self.mean, self.scale = mean, scale

    def gain(self, t: Tensor) -> Tensor:
        t = t[..., None]
        return (t * self.scale**2 - 1 + t) / ((1 - t) ** 2 + t**2 * self.scale**2)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.mean + self.gain(t) * (z - t[..., None] * self.mean)

    def with_divergence(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self(z, t), self.gain(t).sum(-1).expand(z.shape[:-1])


MEAN = torch.tensor([1.0, -2.0, 0.5]).double()
SCALE = torch.tensor([0.3, 1.0, 2.5]).double()
TARGET = Independent(Normal(MEAN, SCALE), 1)


def flow_of(velocity: VelocityField, steps: int) -> Flow:
    return Flow(standard_normal(torch.zeros(D).double()), ContinuousFlow(velocity, steps))


# --- the field --------------------------------------------------------------------------------


def test_eq_divergence(prior: FlowMatchingPrior) -> None:
    z, t = torch.randn(5, D).double(), torch.rand(5).double()
    velocity, divergence = prior.velocity.with_divergence(z, t)
    torch.testing.assert_close(velocity, prior.velocity(z, t))
    for n in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda z, n=n: prior.velocity(z, t[n]), z[n])
        torch.testing.assert_close(divergence[n], jacobian.trace())


def test_it_starts_as_a_standard_normal() -> None:
    z = torch.randn(7, D)
    exact = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(FlowMatchingPrior(D)().log_prob(z), exact, atol=1e-4, rtol=0)


def test_eq_rest(prior: FlowMatchingPrior) -> None:
    # With a network of zeros what is left is the field between N(0, I) and itself.
    torch.nn.init.zeros_(prior.velocity.last.weight)
    torch.nn.init.zeros_(prior.velocity.last.bias)
    z, t = torch.randn(5, D).double(), torch.rand(5).double()
    straight = Straight(torch.zeros(D).double(), torch.ones(D).double())
    torch.testing.assert_close(prior.velocity(z, t), straight(z, t))


# --- the density ------------------------------------------------------------------------------


def test_the_log_determinant_is_that_of_the_jacobian_matrix(prior: FlowMatchingPrior) -> None:
    transform = prior().transform
    u = torch.randn(4, D).double()
    z, ladj = transform.call_and_ladj(u)
    back, same = transform.inverse_and_ladj(z)
    torch.testing.assert_close(back, u, atol=1e-5, rtol=0)
    torch.testing.assert_close(same, ladj, atol=1e-5, rtol=0)
    for n in range(4):
        jacobian = torch.autograd.functional.jacobian(transform, u[n])
        torch.testing.assert_close(ladj[n], torch.linalg.slogdet(jacobian)[1], atol=1e-5, rtol=0)


def test_the_density_is_that_of_zuko_s_free_form_flow(prior: FlowMatchingPrior) -> None:
    z = torch.randn(6, D).double()
    theirs = zuko.transforms.FreeFormJacobianTransform(
        f=lambda t, z: prior.velocity(z, t),
        t0=z.new_tensor(0.0), t1=z.new_tensor(1.0), phi=list(prior.velocity.parameters()),
        atol=1e-9, rtol=1e-9, exact=True,
    )  # fmt: skip
    u, ladj = theirs.inv.call_and_ladj(z)
    expected = Normal(0.0, 1.0).log_prob(u).sum(-1) + ladj
    torch.testing.assert_close(prior().log_prob(z), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("steps", "error"), [(16, 1e-3), (64, 1e-5)])
def test_straight_paths_to_a_gaussian_end_in_that_gaussian(steps: int, error: float) -> None:
    flow = flow_of(Straight(MEAN, SCALE), steps)
    u = torch.randn(50, D).double()
    torch.testing.assert_close(flow.transform(u), MEAN + SCALE * u, atol=error, rtol=0)
    z = TARGET.sample((50,))
    torch.testing.assert_close(flow.log_prob(z), TARGET.log_prob(z), atol=error, rtol=0)


def test_the_solver_is_of_order_four(prior: FlowMatchingPrior) -> None:
    z = torch.randn(20, D).double()

    def log_p(steps: int) -> Tensor:
        return flow_of(prior.velocity, steps).log_prob(z)

    exact = log_p(512)
    errors = [(log_p(steps) - exact).abs().mean() for steps in (16, 32, 64)]
    assert errors[0] / errors[1] > 10 and errors[1] / errors[2] > 10


def test_a_sample_comes_with_its_density(prior: FlowMatchingPrior) -> None:
    p = prior()
    z, log_p = rsample_and_log_prob(p, (8,))
    assert z.shape == (8, D)
    torch.testing.assert_close(p.log_prob(z), log_p, atol=1e-5, rtol=0)


def test_gradients_through_the_solver_are_those_of_differences(prior: FlowMatchingPrior) -> None:
    z = torch.randn(2, D).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: prior().log_prob(z), z)
    weight = prior.velocity.second.weight
    prior.zero_grad()
    prior().log_prob(z).sum().backward()
    with torch.no_grad():
        weight[1, 2] += 1e-6
        above = prior().log_prob(z).sum()
        weight[1, 2] -= 2e-6
        slope = (above - prior().log_prob(z).sum()) / 2e-6
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[1, 2], slope, rtol=1e-5, atol=1e-6)


# --- the loss ---------------------------------------------------------------------------------


def test_eq_flow_matching() -> None:
    # The best field is a conditional mean: off it by a constant c, the loss rises by |c|².
    torch.manual_seed(0)
    codes = TARGET.sample((200_000,))
    prior = FlowMatchingPrior(D).double()
    best, off = Straight(MEAN, SCALE), Straight(MEAN, SCALE)
    shift = torch.tensor([0.3, -0.2, 0.1]).double()
    off.forward = lambda z, t: best(z, t) + shift  # type: ignore[method-assign]
    losses = []
    for velocity in (best, off):
        prior.velocity = velocity
        torch.manual_seed(1)
        losses.append(prior.matching_loss(codes).item())
    assert losses[1] - losses[0] == pytest.approx(float(shift.square().sum()), abs=0.02)
    # And at the best one it is the variance that straight paths leave, ∫ s² / c dt per dimension.
    t = torch.linspace(0, 1, 2001).double()[:, None]
    left = SCALE**2 / ((1 - t) ** 2 + t**2 * SCALE**2)
    assert losses[0] == pytest.approx(torch.trapezoid(left, t, dim=0).sum().item(), rel=0.01)


@pytest.mark.parametrize("through", ["density", "matching"])
def test_gradient_reaches_every_parameter(through: str, prior: FlowMatchingPrior) -> None:
    codes = torch.randn(50, D).double()
    loss = prior.matching_loss(codes) if through == "matching" else -prior().log_prob(codes).mean()
    loss.backward()
    for name, parameter in prior.named_parameters():
        # The last bias moves all points alike, and so no volume; the density feels it all the same.
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_density_that_matching_finds_on_the_ring_integrates_to_one() -> None:
    torch.manual_seed(0)
    ring = load("rings")
    prior = FlowMatchingPrior(2)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 - step / 250)
        rows = torch.randint(len(ring.train), (256,))
        optimizer.zero_grad()
        prior.matching_loss(ring.train[rows]).backward()
        optimizer.step()
    line = torch.linspace(-4, 4, 201)
    with torch.no_grad():
        density = prior().log_prob(torch.cartesian_prod(line, line)).double().exp()
        assert density.sum().item() * (8 / 200) ** 2 == pytest.approx(1, abs=0.01)
        # A Gaussian of the ring's mean and covariance has −3.6 nats a point.
        assert prior().log_prob(ring.test).mean() > -2.8


# --- in a VAE ---------------------------------------------------------------------------------


def test_in_two_stages_only_the_prior_learns_and_the_bound_rises() -> None:
    data = load("digits")
    torch.manual_seed(0)
    first = build("gaussian", data)
    fit(first, data, epochs=20)
    held = {name: value.clone() for name, value in first.state_dict().items()}
    vae = build("two-stage-flow-matching-prior", data, first=first)
    history = fit(vae, data, epochs=20)
    for name, value in first.state_dict().items():
        assert torch.equal(value, held[name]), name
    assert history.loss[-1] < history.loss[0]
    with torch.no_grad():
        torch.manual_seed(1)
        z = vae.posterior(data.validation).sample()
        gained = (vae.prior().log_prob(z) - first.prior().log_prob(z)).mean()
    assert gained > 0.1
    # Its loss is the matching loss, and no bound.
    x = data.batch(data.train[:50])
    torch.manual_seed(2)
    loss = vae.loss(x)
    torch.manual_seed(2)
    torch.testing.assert_close(loss, vae.prior.matching_loss(vae.posterior(x).sample((32,))))


def test_bad_input_gets_one_line() -> None:
    for hidden in ([], [8, 8, 8]):
        with pytest.raises(InputError, match=r"\Aa velocity field has two hidden layers.*: got"):
            FlowMatchingPrior(D, hidden)
    for steps in (0, 1001, 2.5):
        with pytest.raises(InputError, match=r"\Asteps must be "):
            FlowMatchingPrior(D, steps=steps)  # type: ignore[arg-type]
    assert repr(FlowMatchingPrior(2)).startswith("FlowMatchingPrior(\n  steps=8")
    assert math.isfinite(FlowMatchingPrior(1)().log_prob(torch.zeros(1)).item())
