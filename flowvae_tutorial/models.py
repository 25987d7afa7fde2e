"""The book's models by name, each with its sizes for each kind of data."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from .data import Data
from .errors import InputError
from .likelihoods import BernoulliLikelihood, GaussianLikelihood
from .networks import gated_mlp, mlp
from .posteriors import GaussianPosterior
from .priors import GaussianMixture, StandardNormal
from .vae import VAE


class Sizes(NamedTuple):
    """The sizes of a model."""

    latent: int
    hidden: tuple[int, ...]
    components: int
    """Of a mixture prior."""


DIGITS = Sizes(latent=16, hidden=(128, 128), components=50)
RINGS = Sizes(latent=2, hidden=(64, 64), components=8)
# Tomczak and Welling (2018), for images of 28 by 28 pixels.
MNIST = Sizes(latent=40, hidden=(300, 300), components=500)


def default_sizes(data: Data) -> Sizes:
    """The sizes that the book uses for this data set."""
    if data.image_shape is None:
        return RINGS
    return DIGITS if data.image_shape == (8, 8) else MNIST


def training_settings(data: Data) -> dict[str, Any]:
    """The arguments of `fit` that the book uses for this data set."""
    if data.image_shape == (28, 28):
        return {"epochs": 2000, "batch_size": 100, "lr": 5e-4, "warmup": 100, "patience": 50}
    return {"epochs": 200, "batch_size": 64, "lr": 2e-3, "warmup": 20, "patience": 50}


def network(data: Data) -> Callable[..., nn.Module]:
    """Gated layers for 28 by 28 images, as in the paper, and plain ones for small data."""
    return gated_mlp if data.image_shape == (28, 28) else mlp


def gaussian_posterior(data: Data, sizes: Sizes) -> GaussianPosterior:
    """q(z | x), a diagonal Gaussian."""
    return GaussianPosterior(network(data)(data.features, sizes.hidden, 2 * sizes.latent))


def likelihood(data: Data, sizes: Sizes) -> BernoulliLikelihood | GaussianLikelihood:
    """p(x | z), of the kind that the data call for."""
    net = network(data)(sizes.latent, sizes.hidden[::-1], data.features)
    if data.likelihood == "bernoulli":
        return BernoulliLikelihood(net)
    return GaussianLikelihood(net, data.features)


def _gaussian(data: Data, sizes: Sizes) -> VAE:
    return VAE(
        StandardNormal(sizes.latent), gaussian_posterior(data, sizes), likelihood(data, sizes)
    )


def _mixture(data: Data, sizes: Sizes) -> VAE:
    return VAE(
        GaussianMixture(sizes.latent, sizes.components),
        gaussian_posterior(data, sizes),
        likelihood(data, sizes),
    )


MODELS: dict[str, Callable[[Data, Sizes], VAE]] = {"gaussian": _gaussian, "mixture": _mixture}


def build(name: str, data: Data, sizes: Sizes | None = None) -> VAE:
    """A new model by name, for this data; `MODELS` lists the names.

    Its weights come from torch's random state: call `torch.manual_seed` first.

    Raises:
        InputError: no such name.
    """
    if name not in MODELS:
        raise InputError(f"no model named {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name](data, sizes or default_sizes(data))
