"""`torch.func`: every prior with every posterior, and the book's models, under its transforms."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from flowvae_tutorial import (
    VAE,
    GaussianLikelihood,
    HierarchicalPosterior,
    InputError,
    rsample_and_log_prob,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import BOOK_MODELS, MODELS, Sizes
from flowvae_tutorial.networks import mlp
from test_pairs import PAIRS, POSTERIORS, PRIORS, D, X, bend

SMALL = Sizes(latent=2, hidden=(6,), components=3, pseudo_inputs=4, transforms=2, flow_hidden=(6,))
OURS = [(p, q) for p, q in PAIRS if "zuko" not in p + q]
DATA = {name: load(name) for name in ("rings", "digits")}


def pair(prior: str, posterior: str) -> VAE:
    q = POSTERIORS[posterior](None)
    vae = VAE(PRIORS[prior](None, q), q, GaussianLikelihood(mlp(D, (8,), X), X))
    bend(vae, 0.1)
    return vae.double()


def book_model(name: str, data: Data) -> VAE:
    vae = MODELS[name](data, SMALL)
    bend(vae, 0.1)
    return vae


class Asked(nn.Module):
    """A question to a VAE as a module, so that `functional_call` spans all of it."""

    def __init__(self, vae: VAE, question: Callable[[VAE, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.vae = vae
        self.question = question

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.question(self.vae, x, z)


# Each depends on x or z, so that a gradient exists.
QUESTIONS: dict[str, Callable[[VAE, Tensor, Tensor], Tensor]] = {
    "loss": lambda vae, x, z: vae.loss(x),
    "bound": lambda vae, x, z: vae.elbo(x, 3).value.mean(),
    "prior": lambda vae, x, z: vae.prior().log_prob(z).sum(),
    "posterior": lambda vae, x, z: vae.posterior(x).log_prob(z).sum(),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(("prior", "posterior"), OURS)
def test_gradients_of_each_example_are_those_of_a_loop(
    prior: str, posterior: str, question: str
) -> None:
    vae, x = pair(prior, posterior), torch.randn(2, X).double()
    z = torch.randn(2, D).double()
    model = Asked(vae, QUESTIONS[question])
    parameters = dict(model.named_parameters())

    def of_one(parameters: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        value: Tensor = functional_call(model, parameters, (x[None], z[None]))
        return value

    torch.manual_seed(1)
    of_each = vmap(grad(of_one, argnums=(0, 1, 2)), (None, 0, 0), randomness="same")
    found, by_x, by_z = of_each(parameters, x, z)
    for i in range(2):
        x_i, z_i = x[i : i + 1].requires_grad_(), z[i : i + 1].requires_grad_()
        torch.manual_seed(1)
        inputs = [*parameters.values(), x_i, z_i]
        expected = torch.autograd.grad(
            model(x_i, z_i), inputs, allow_unused=True, materialize_grads=True
        )
        each = [*(value[i] for value in found.values()), by_x[i : i + 1], by_z[i : i + 1]]
        torch.testing.assert_close(each, list(expected), rtol=1e-9, atol=1e-11)
        assert any(value.any() for value in each)


@pytest.mark.parametrize("name", BOOK_MODELS)
@pytest.mark.parametrize("data", DATA)
def test_an_example_has_noise_of_its_own_or_shares_it_as_vmap_is_asked(
    data: str, name: str
) -> None:
    vae = book_model(name, DATA[data]).double()
    x = DATA[data].batch(DATA[data].train[:1]).double().expand(3, -1)
    parameters = dict(vae.named_parameters())

    def gradients(randomness: str) -> Tensor:
        of_one = grad(lambda parameters, x: functional_call(vae, parameters, (x[None],)))
        found = vmap(of_one, in_dims=(None, 0), randomness=randomness)(parameters, x)
        assert {k: v.shape for k, v in found.items()} == {
            k: (3, *v.shape) for k, v in parameters.items()
        }
        every = torch.cat([value.flatten(1) for value in found.values()], dim=1)
        assert every.isfinite().all()
        return every

    first, second, third = gradients("different")
    assert not (first.allclose(second) or first.allclose(third) or second.allclose(third))
    first, *others = gradients("same")
    for other in others:
        torch.testing.assert_close(other, first)


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_many_models_run_as_one(name: str) -> None:
    """Parameters and buffers have a batch dimension: two flows have other permutations."""
    vaes = [book_model(name, DATA["digits"]).double() for _ in range(2)]
    x, z = torch.rand(3, 64).double(), torch.randn(3, vaes[0].prior().event_shape[0]).double()
    shell = copy.deepcopy(vaes[0]).to("meta")
    for question in QUESTIONS.values():
        state = stack_module_state([Asked(vae, question) for vae in vaes])
        model = Asked(shell, question)
        # What is no part of the weights has no place in a stack.
        fixed = {k: b for k, b in Asked(vaes[0], question).named_buffers() if k not in state[1]}
        torch.manual_seed(1)
        found = vmap(
            lambda p, b, m=model, fixed=fixed: functional_call(m, (p, {**fixed, **b}), (x, z)),
            randomness="same",
        )(*state)
        for vae, value in zip(vaes, found, strict=True):
            torch.manual_seed(1)
            torch.testing.assert_close(value, question(vae, x, z), rtol=1e-9, atol=1e-9)


def test_values_are_looked_at_outside_a_transform_alone() -> None:
    vae, bad = book_model("flow-both", DATA["rings"]), torch.full((2, 2), torch.nan)
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda x: vae.loss(x[None]),
        lambda x: vae.log_marginal(x[None], 3),
        lambda z: vae.prior().log_prob(z),
        lambda x: vae.posterior(x[None]).log_prob(x),
    ]
    for call in calls:
        assert vmap(call, randomness="different")(bad).isnan().all()
    with pytest.raises(InputError, match="x has NaN"):
        vae.loss(bad)
    # A distribution of the package's own looks at nothing, as torch's with `validate_args` off.
    assert vae.prior().log_prob(bad).isnan().all()


def test_what_needs_no_value_is_refused_inside_a_transform_too() -> None:
    vae = book_model("gaussian", DATA["rings"])
    with pytest.raises(InputError, match=r"x must have shape \(N, 2\), got \(2,\)"):
        vmap(vae.loss, randomness="different")(torch.rand(3, 2))


def test_a_hierarchy_may_meet_its_first_example_inside_a_transform() -> None:
    posterior = POSTERIORS["two gaussians"](None)
    assert isinstance(posterior, HierarchicalPosterior)
    x, z, state = torch.randn(3, X), torch.randn(3, D), torch.get_rng_state()
    found = vmap(lambda x, z: posterior(x[None]).log_prob(z[None]), randomness="different")(x, z)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(found.squeeze(1), posterior(x).log_prob(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4)])
def test_noise_is_torchs_bit_by_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    loc, raw = torch.randn(2, 4, 7, dtype=dtype)
    normal = Independent(Normal(loc, F.softplus(raw)), 1)
    torch.manual_seed(3)
    expected = normal.rsample(shape)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    found, log_prob = rsample_and_log_prob(normal, shape)
    assert torch.equal(found, expected) and torch.equal(log_prob, normal.log_prob(found))
    assert torch.equal(torch.get_rng_state(), state)
