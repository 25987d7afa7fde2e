"""The book's models: each name builds and trains on each kind of data, at the sizes it states."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flowvae_tutorial import (
    BernoulliLikelihood,
    GaussianLikelihood,
    InputError,
    StandardNormal,
    build,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import (
    BOOK_MODELS,
    FIRST_STAGE,
    MODELS,
    RINGS,
    Sizes,
    default_sizes,
    resolve,
    training_settings,
)

VAMPPRIORS = ("vampprior", "hierarchical-vampprior")
LIVE = ("digits", "digits-binary", "rings")


def images_28() -> Data:
    """A data set of MNIST's shape."""
    # Mostly black, as digits are: there is something to learn in ten steps.
    x = (torch.rand(500, 784, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    shape = {"train": x, "validation": x[:6], "test": x[:6]}
    return replace(
        load("digits-binary"), name="noise", image_shape=(28, 28), labels={}, batch=lambda x: x,
        **shape,
    )  # fmt: skip


@pytest.mark.parametrize("data", [*LIVE, "28x28"])
@pytest.mark.parametrize("name", BOOK_MODELS)
def test_every_model_takes_a_step_on_every_kind_of_data(name: str, data: str) -> None:
    torch.manual_seed(0)
    dataset = images_28() if data == "28x28" else load(data)
    first = build(FIRST_STAGE[name], dataset) if name in FIRST_STAGE else None
    vae = build(name, dataset, first=first)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    # A flow for each of 500 pseudo-inputs and each example: of large pictures, few.
    x = dataset.batch(dataset.train[: 8 if data == "28x28" else 64])
    losses = []
    for _ in range(10):
        torch.manual_seed(1)  # one noise for all steps: a prior alone gains less than noise costs
        loss = vae(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    still = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    held = [n for n, p in vae.named_parameters() if not n.startswith("prior.")] if first else []
    assert still == held, "every parameter learns that is not of a first stage"

    few = x[:5]
    assert vae.elbo(few, 3).value.shape == (3, 5)
    assert vae.log_marginal(few, 4).shape == (5,)
    assert vae.log_marginal(few, 4).isfinite().all()
    assert vae.sample(7).shape == (7, dataset.features)
    assert vae.reconstruct(few).shape == few.shape


@pytest.mark.parametrize(
    ("data", "latent", "hidden"),
    [("digits", 16, (128, 128)), ("digits-binary", 16, (128, 128)), ("rings", 2, (64, 64))],
)
def test_small_data_get_small_plain_networks(
    data: str, latent: int, hidden: tuple[int, ...]
) -> None:
    dataset = load(data)
    vae = build("gaussian", dataset)
    assert default_sizes(dataset)[:2] == (latent, hidden)
    assert tuple(vae.prior().event_shape) == (latent,)
    widths = [m.out_features for m in vae.posterior.modules() if isinstance(m, nn.Linear)]
    assert widths == [*hidden, 2 * latent]
    widths = [m.out_features for m in vae.likelihood.modules() if isinstance(m, nn.Linear)]
    assert widths == [*hidden[::-1], dataset.features]


def test_images_of_28_by_28_get_the_papers_gated_networks_and_batches() -> None:
    data = images_28()
    vae = build("gaussian", data)
    assert tuple(vae.prior().event_shape) == (40,)
    shapes = [tuple(p.shape) for name, p in vae.posterior.named_parameters() if "weight" in name]
    assert shapes == [(600, 784), (600, 300), (80, 300)], "a gated layer has twice the rows"
    shapes = [tuple(p.shape) for name, p in vae.likelihood.named_parameters() if "weight" in name]
    assert shapes == [(600, 40), (600, 300), (784, 300)]
    assert default_sizes(data).components == 500
    settings = training_settings(data)
    assert (settings["batch_size"], settings["patience"]) == (100, 50)


def linear_shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Of each linear layer's weights; a gated layer has twice the rows."""
    return [tuple(m.weight.shape) for m in module.modules() if isinstance(m, nn.Linear)]


def test_the_vampprior_of_28_by_28_images_has_the_papers_sizes() -> None:
    vae = build("vampprior", images_28())
    assert tuple(vae.prior().event_shape) == (40,)
    assert linear_shapes(vae.posterior) == [(600, 784), (600, 300), (80, 300)]
    assert linear_shapes(vae.likelihood) == [(600, 40), (600, 300), (784, 300)]
    assert vae.prior.pseudo_inputs.shape == (500, 784)
    assert [name for name, _ in vae.prior.named_parameters()] == ["raw"], "equal weights"


@pytest.mark.parametrize("name", ["hvae", "hierarchical-vampprior"])
def test_hierarchies_of_28_by_28_images_have_the_papers_sizes(name: str) -> None:
    vae = build(name, images_28())
    assert tuple(vae.prior().event_shape) == (80,)
    assert linear_shapes(vae.posterior.top) == [(600, 784), (600, 300), (80, 300)]
    # q(z₁ | x, z₂) and p(x | z₂, z₁): a layer for each input, then one for both.
    below = [(600, 784), (600, 40), (600, 600), (80, 300)]
    assert linear_shapes(vae.posterior.conditional) == below
    assert linear_shapes(vae.prior.conditional) == [(600, 40), (600, 300), (80, 300)]
    assert linear_shapes(vae.likelihood) == [(600, 40), (600, 40), (600, 600), (784, 300)]
    if name == "hierarchical-vampprior":
        assert vae.prior.top.pseudo_inputs.shape == (500, 784)
    else:
        assert isinstance(vae.prior.top, StandardNormal)


@pytest.mark.parametrize("name", VAMPPRIORS)
def test_a_vampprior_is_made_of_its_own_models_posterior(name: str) -> None:
    vae = build(name, load("digits"))
    top = vae.prior.top if name.startswith("h") else vae.prior
    encode = vae.posterior.top if name.startswith("h") else vae.posterior
    z = torch.randn(7, 16)
    torch.testing.assert_close(
        top().components.log_prob(z[:, None]), encode(top.pseudo_inputs).log_prob(z[:, None])
    )


@pytest.mark.parametrize(("data", "count"), [("digits", 100), ("rings", 50)])
def test_pseudo_inputs_start_at_training_examples(data: str, count: int) -> None:
    dataset = load(data)
    start = build("vampprior", dataset).prior.pseudo_inputs.detach()
    assert start.shape == (count, dataset.features)
    nearest = torch.cdist(start, dataset.batch(dataset.train)).min(-1).values
    # Noise of 0.05 a pixel, and for digits the dequantisation's, at most 1/17.
    assert nearest.max() < dataset.features**0.5 * 0.12 + 0.1
    assert data == "digits" or start.min() < -1, "the ring's are not squeezed into [0, 1]"


@pytest.mark.parametrize("count", [1, 7, 500])
def test_a_number_behind_the_name_is_that_of_pseudo_inputs(count: int) -> None:
    data = load("rings")
    model, sizes = resolve(f"vampprior-k{count}", data)
    assert (model, sizes) == ("vampprior", default_sizes(data)._replace(pseudo_inputs=count))
    assert build(f"vampprior-k{count}", data).prior.pseudo_inputs.shape == (count, 2)
    top = build(f"hierarchical-vampprior-k{count}", data).prior.top
    assert top.pseudo_inputs.shape == (count, 2)


def test_more_pseudo_inputs_than_training_examples_are_refused() -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*5000 pseudo-inputs from 2000 examples[^\n]*\Z"):
        build("vampprior-k5000", load("rings"))


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_a_name_without_a_number_has_the_default_sizes(name: str) -> None:
    data = load("digits")
    assert resolve(name, data) == (name, default_sizes(data))


def test_vae_is_another_name_of_gaussian() -> None:
    data, states = load("rings"), []
    for name in ("vae", "gaussian"):
        torch.manual_seed(0)
        states.append(build(name, data).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert "vae" not in BOOK_MODELS, "`reproduce` trains it once"


def test_the_likelihood_is_of_the_kind_that_the_data_call_for() -> None:
    assert isinstance(build("gaussian", load("digits")).likelihood, GaussianLikelihood)
    assert isinstance(build("gaussian", load("digits-binary")).likelihood, BernoulliLikelihood)


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_torchs_random_state(name: str) -> None:
    data = load("rings")
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in MODELS[name](data, RINGS).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_sizes_can_be_chosen() -> None:
    vae = build("mixture", load("rings"), Sizes(latent=3, hidden=(5, 7), components=4))
    assert vae.prior.loc.shape == (4, 3)
    parameters = dict(vae.named_parameters())
    assert parameters["posterior.net.1.0.weight"].shape == (7, 5)
    assert parameters["likelihood.net.0.0.weight"].shape == (7, 3)


@pytest.mark.parametrize(
    "name",
    [
        "vamp2",
        "",
        "-k5",
        "vamp2-k5",
        "vampprior-k",
        "vampprior-kx",
        "gaussian-k500",
        "mixture-k",
        "vampprior-k5.5",
        "vampprior-k-5",
        "vampprior5",
        "vampprior-k5-k6",
        "Gaussian",
    ],
)
def test_an_unknown_name_says_which_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'") as error:
        build(name, load("rings"))
    assert all(name in str(error.value) for name in MODELS)
    assert "\n" not in str(error.value)
