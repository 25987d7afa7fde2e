"""The book's models: each name builds and trains on each kind of data, at the sizes it states."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flowvae_tutorial import BernoulliLikelihood, GaussianLikelihood, InputError, build
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import MODELS, Sizes, default_sizes, training_settings

LIVE = ("digits", "digits-binary", "rings")


def images_28() -> Data:
    """A data set of MNIST's shape."""
    x = torch.rand(6, 784, generator=torch.Generator().manual_seed(0)).round()
    shape = {"train": x, "validation": x, "test": x}
    return replace(
        load("digits-binary"), name="noise", image_shape=(28, 28), labels={}, batch=lambda x: x,
        **shape,
    )  # fmt: skip


@pytest.mark.parametrize("data", [*LIVE, "28x28"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_a_step_on_every_kind_of_data(name: str, data: str) -> None:
    torch.manual_seed(0)
    dataset = images_28() if data == "28x28" else load(data)
    vae = build(name, dataset)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    x = dataset.batch(dataset.train[:64])
    losses = []
    for _ in range(10):
        loss = vae(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    still = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == [], "every parameter learns"


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


def test_images_of_28_by_28_get_the_papers_gated_networks_and_settings() -> None:
    data = images_28()
    vae = build("gaussian", data)
    assert tuple(vae.prior().event_shape) == (40,)
    shapes = [tuple(p.shape) for name, p in vae.posterior.named_parameters() if "weight" in name]
    assert shapes == [(600, 784), (600, 300), (80, 300)], "a gated layer has twice the rows"
    shapes = [tuple(p.shape) for name, p in vae.likelihood.named_parameters() if "weight" in name]
    assert shapes == [(600, 40), (600, 300), (784, 300)]
    assert default_sizes(data).components == 500
    settings = training_settings(data)
    assert (settings["batch_size"], settings["lr"], settings["warmup"]) == (100, 5e-4, 100)
    assert settings["patience"] == 50


def test_the_likelihood_is_of_the_kind_that_the_data_call_for() -> None:
    assert isinstance(build("gaussian", load("digits")).likelihood, GaussianLikelihood)
    assert isinstance(build("gaussian", load("digits-binary")).likelihood, BernoulliLikelihood)


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_torchs_random_state(name: str) -> None:
    data = load("rings")
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in build(name, data).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_sizes_can_be_chosen() -> None:
    vae = build("mixture", load("rings"), Sizes(latent=3, hidden=(5, 7), components=4))
    assert vae.prior.loc.shape == (4, 3)
    parameters = dict(vae.named_parameters())
    assert parameters["posterior.net.2.weight"].shape == (7, 5)
    assert parameters["likelihood.net.0.weight"].shape == (7, 3)


def test_an_unknown_name_says_which_exist() -> None:
    with pytest.raises(InputError, match="'vamp2'") as error:
        build("vamp2", load("rings"))
    assert all(name in str(error.value) for name in MODELS)
    assert "\n" not in str(error.value)
