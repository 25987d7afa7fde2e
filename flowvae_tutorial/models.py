"""The book's models by name, each with its sizes for each kind of data."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from .arguments import plain_sizes, text, widths
from .autoregressive import AutoregressiveFlow
from .data import Data
from .errors import InputError
from .flow_matching import FlowMatchingPrior
from .flows import CouplingFlow
from .likelihoods import BernoulliLikelihood, GaussianLikelihood
from .networks import LOG_SCALE_BOUNDS, GatedLinear, Layer, OnParts, TwoInputs, dense, mlp
from .posteriors import FlowPosterior, GaussianPosterior, HierarchicalPosterior
from .priors import (
    GaussianMixture,
    HierarchicalPrior,
    StandardNormal,
    VampPrior,
    pseudo_inputs_from,
)
from .stages import on_first_stage
from .vae import VAE


class Sizes(NamedTuple):
    """The sizes of a model."""

    latent: int
    hidden: tuple[int, ...]
    components: int = 50
    """Of a mixture prior."""
    pseudo_inputs: int = 50
    """Of a VampPrior."""
    transforms: int = 6
    """Couplings of a flow."""
    flow_hidden: tuple[int, ...] = (64, 64)
    """Of each coupling's network."""


DIGITS = Sizes(latent=16, hidden=(128, 128), components=50, pseudo_inputs=100)
RINGS = Sizes(latent=2, hidden=(64, 64), components=8, pseudo_inputs=50, transforms=8)
# Tomczak and Welling (2018), for images of 28 by 28 pixels.
MNIST = Sizes(40, hidden=(300, 300), components=500, pseudo_inputs=500, flow_hidden=(256, 256))
MakeFlow = Callable[[int, int, int, tuple[int, ...]], CouplingFlow]


def default_sizes(data: Data) -> Sizes:
    """`RINGS` for points, `DIGITS` for 8 by 8 pixels, `MNIST`, made for 28 by 28, for the rest."""
    if data.image_shape is None:
        return RINGS
    return DIGITS if data.image_shape == (8, 8) else MNIST


def training_settings(data: Data) -> dict[str, Any]:
    """The arguments of `fit` that the book uses for this data set."""
    both = {"decay": 0.5, "warmup": 20}
    if data.image_shape == (28, 28):
        return both | dict(epochs=150, batch_size=100, lr=1e-3, clip=100.0, patience=50)
    return both | dict(epochs=200, batch_size=64, lr=2e-3, patience=200)


def hidden_layer(data: Data) -> Layer:
    """Gated layers for 28 by 28 images, as in the paper, and plain ones for small data."""
    return GatedLinear if data.image_shape == (28, 28) else dense


def gaussian_posterior(data: Data, sizes: Sizes) -> GaussianPosterior:
    """q(z | x), a diagonal Gaussian."""
    net = mlp(data.features, sizes.hidden, 2 * sizes.latent, hidden_layer(data))
    return GaussianPosterior(net, LOG_SCALE_BOUNDS)


def likelihood(
    data: Data, sizes: Sizes, net: nn.Module | None = None
) -> BernoulliLikelihood | GaussianLikelihood:
    """p(x | z), of the kind that the data call for; `net` in place of a plain decoder."""
    if net is None:
        net = mlp(sizes.latent, sizes.hidden[::-1], data.features, hidden_layer(data))
    if data.likelihood == "bernoulli":
        return BernoulliLikelihood(net)
    return GaussianLikelihood(net, data.features)


def _standard_normal(data: Data, sizes: Sizes, posterior: nn.Module) -> StandardNormal:
    return StandardNormal(sizes.latent)


def vamp_prior(data: Data, sizes: Sizes, posterior: nn.Module) -> VampPrior:
    """A VampPrior that starts from training images."""
    bounds = None if data.image_shape is None else (0.0, 1.0)
    # Drawn on the CPU, as weights are: the same on every machine.
    start = pseudo_inputs_from(data.batch(data.train.cpu()), sizes.pseudo_inputs, bounds=bounds)
    return VampPrior(posterior, start, bounds=bounds)


def _flow(flow: MakeFlow, data: Data, sizes: Sizes, posterior: nn.Module) -> CouplingFlow:
    return flow(sizes.latent, 0, sizes.transforms, sizes.flow_hidden)


def _matching(data: Data, sizes: Sizes, posterior: nn.Module) -> FlowMatchingPrior:
    return FlowMatchingPrior(sizes.latent, sizes.flow_hidden)


def flow_posterior(flow: MakeFlow, data: Data, sizes: Sizes) -> FlowPosterior:
    """q(z | x), a Gaussian bent by a flow that is conditioned on its mean."""
    net = mlp(data.features, sizes.hidden, 2 * sizes.latent, hidden_layer(data))
    bend = flow(sizes.latent, sizes.latent, sizes.transforms, sizes.flow_hidden)
    return FlowPosterior(net, bend, LOG_SCALE_BOUNDS)


def two_inputs(data: Data, sizes: Sizes, first: int, out_features: int) -> TwoInputs:
    """A hidden layer for each input, `first` numbers and a latent, then one for both."""
    layer, (width, *rest) = hidden_layer(data), widths(sizes.hidden, "hidden", least=1)
    joint = mlp(2 * width, rest, out_features, layer)
    return TwoInputs(layer(first, width), layer(sizes.latent, width), joint)


def hierarchical_posterior(data: Data, sizes: Sizes) -> HierarchicalPosterior:
    """q(z₂ | x) q(z₁ | x, z₂), both levels of the same size."""
    net = two_inputs(data, sizes, data.features, 2 * sizes.latent)
    below = GaussianPosterior(net, LOG_SCALE_BOUNDS)
    return HierarchicalPosterior(gaussian_posterior(data, sizes), below)


Posterior = Callable[[Data, Sizes], nn.Module]
# Given the posterior that it may share.
Prior = Callable[[Data, Sizes, nn.Module], nn.Module]


def _one_level(prior: Prior, posterior: Posterior, data: Data, sizes: Sizes) -> VAE:
    q = posterior(data, sizes)
    return VAE(prior(data, sizes, q), q, likelihood(data, sizes))


def _two_levels(top: Prior, data: Data, sizes: Sizes) -> VAE:
    latent, layer = sizes.latent, hidden_layer(data)
    posterior = hierarchical_posterior(data, sizes)
    net = mlp(latent, sizes.hidden, 2 * latent, layer)
    conditional = GaussianPosterior(net, LOG_SCALE_BOUNDS)
    decoder = OnParts(latent, two_inputs(data, sizes, latent, data.features))
    prior = HierarchicalPrior(top(data, sizes, posterior.top), conditional)
    return VAE(prior, posterior, likelihood(data, sizes, decoder))


def _mixture(data: Data, sizes: Sizes) -> VAE:
    # The prior's numbers are drawn first: another order would be another model a seed.
    prior = GaussianMixture(sizes.latent, sizes.components)
    return VAE(prior, gaussian_posterior(data, sizes), likelihood(data, sizes))


_spline, _iaf = partial(CouplingFlow, kind="spline"), partial(AutoregressiveFlow, kind="inverse")
_bend, _bend_spline, _maf = (partial(_flow, f) for f in (CouplingFlow, _spline, AutoregressiveFlow))
_bent, _bent_spline, _bent_iaf = (partial(flow_posterior, f) for f in (CouplingFlow, _spline, _iaf))

MODELS: dict[str, Callable[[Data, Sizes], VAE]] = {
    "gaussian": partial(_one_level, _standard_normal, gaussian_posterior),
    "mixture": _mixture,
    "vampprior": partial(_one_level, vamp_prior, gaussian_posterior),
    "hvae": partial(_two_levels, _standard_normal),
    "hierarchical-vampprior": partial(_two_levels, vamp_prior),
    "flow-prior": partial(_one_level, _bend, gaussian_posterior),
    "spline-flow-prior": partial(_one_level, _bend_spline, gaussian_posterior),
    "two-stage-flow-prior": partial(_one_level, _bend, gaussian_posterior),
    "flow-matching-prior": partial(_one_level, _matching, gaussian_posterior),
    "two-stage-flow-matching-prior": partial(_one_level, _matching, gaussian_posterior),
    "maf-prior": partial(_one_level, _maf, gaussian_posterior),
    "hierarchical-flow-prior": partial(_two_levels, _bend),
    "flow-posterior": partial(_one_level, _standard_normal, _bent),
    "spline-flow-posterior": partial(_one_level, _standard_normal, _bent_spline),
    "iaf-posterior": partial(_one_level, _standard_normal, _bent_iaf),
    "flow-both": partial(_one_level, _bend, _bent),
    "spline-flow-both": partial(_one_level, _bend_spline, _bent_spline),
    "vampprior-flow-posterior": partial(_one_level, vamp_prior, _bent),
}
BOOK_MODELS = list(MODELS)
# Models that take posterior and likelihood from another, trained before them and then held.
FIRST_STAGE = dict.fromkeys(["two-stage-flow-prior", "two-stage-flow-matching-prior"], "gaussian")
# The paper's name for the model that the book's first chapter is called after.
MODELS["vae"] = MODELS["gaussian"]


def resolve(name: str, data: Data) -> tuple[str, Sizes]:
    """The model and the sizes that a name stands for.

    `vampprior-k500` is `vampprior` with 500 pseudo-inputs, `mixture-k1` one free Gaussian.

    Raises:
        InputError: no such name, or more components than any data set here has examples.
    """
    model, asks, count = text(name, "a model's name").partition("-k")
    number = count.isdecimal() and len(count) < 7 and int(count) <= 100_000
    if model not in MODELS or (asks and not (number and (model == "mixture" or "vamp" in model))):
        raise InputError(
            f"no model named {name!r}: choose one of {', '.join(MODELS)}; -k500 behind a mixture's"
            " or a VampPrior's name asks for 500 components, 100000 are the most"
        )
    sizes = default_sizes(data)
    if model == "mixture" and count:
        return model, sizes._replace(components=int(count))
    return model, sizes._replace(pseudo_inputs=int(count or sizes.pseudo_inputs))


def build(name: str, data: Data, sizes: Sizes | None = None, *, first: VAE | None = None) -> VAE:
    """A new model by name, for this data and on their device; `MODELS` lists the names.

    Its weights come from torch's random state: call `torch.manual_seed` first.

    Args:
        name: as `resolve` takes it.
        data: what the model is for.
        sizes: in place of those that the name stands for.
        first: what a model of two stages takes posterior and likelihood from, trained already.

    Raises:
        InputError: no such name, a size out of range, or no first one for a model of two stages.

    Example:
        >>> from flowvae_tutorial import build
        >>> from flowvae_tutorial.data import load
        >>> vae = build("vampprior-k10", load("rings"))
        >>> vae.prior.pseudo_inputs.shape
        torch.Size([10, 2])
    """
    model, _ = resolve(name, data)
    if first is None and (stage := FIRST_STAGE.get(model)):
        raise InputError(
            f"{model} holds the posterior and likelihood of a trained {stage!r}: train that, then "
            f"build({model!r}, data, first=trained)"
        )
    vae = assemble(name, data, sizes)
    return vae if first is None else on_first_stage(vae, first)


def assemble(name: str, data: Data, sizes: Sizes | None = None) -> VAE:
    """As `build`, but a model of two stages comes with a first that has learned nothing."""
    model, named = resolve(name, data)
    sizes = plain_sizes(sizes or named)
    vae = MODELS[model](data, sizes).to(data.train.device)
    # Of each conditional Gaussian: one more that is bounded is another model.
    ends = [end for part in vae.modules() for end in vars(part).get("log_scale_bounds") or ()]
    vae.built_from = dict(model=name, sizes=sizes._asdict(), data=data.form, log_scale_bounds=ends)
    return vae
