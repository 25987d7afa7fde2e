"""What `print` says of a module: its sizes."""

import re

import pytest
import torch
from test_functional import DATA, book_model
from torch import nn

from flowvae_tutorial import (
    VAE,
    CouplingFlow,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    StandardNormal,
    VampPrior,
)
from flowvae_tutorial.models import BOOK_MODELS
from flowvae_tutorial.networks import GatedLinear, OnParts, TwoInputs


def gaussian(inputs: int, latent: int) -> GaussianPosterior:
    return GaussianPosterior(nn.Linear(inputs, 2 * latent))


def hierarchical_posterior() -> HierarchicalPosterior:
    both = TwoInputs(nn.Identity(), nn.Identity(), nn.Linear(6 + 2, 2 * 3))
    posterior = HierarchicalPosterior(gaussian(6, 2), GaussianPosterior(both))
    posterior(torch.zeros(1, 6))
    return posterior


def vae() -> VAE:
    return VAE(StandardNormal(2), gaussian(6, 2), GaussianLikelihood(nn.Linear(2, 6), 6))


PSEUDO_INPUTS = torch.full((5, 6), 0.5)
MODULES: dict[str, nn.Module] = {
    "StandardNormal(features=2)": StandardNormal(2),
    "GaussianMixture(features=2, components=8)": GaussianMixture(2, 8),
    "VampPrior(components=5, inputs=6, bounds=(0.0, 1.0), weights=fixed)": VampPrior(
        gaussian(6, 2), PSEUDO_INPUTS
    ),
    "VampPrior(components=5, inputs=6, bounds=None, weights=learned)": VampPrior(
        gaussian(6, 2), PSEUDO_INPUTS, torch.zeros(5), bounds=None
    ),
    "HierarchicalPrior(features=5": HierarchicalPrior(StandardNormal(2), gaussian(2, 3)),
    "HierarchicalPosterior(features=5": hierarchical_posterior(),
    "CouplingFlow(features=2, context=3, transforms=4, kind=affine": CouplingFlow(2, 3),
    "CouplingFlow(features=1, context=0, transforms=0, kind=spline": CouplingFlow(
        1, transforms=0, kind="spline"
    ),
    "GaussianLikelihood(features=6, min_scale=0.01": GaussianLikelihood(nn.Linear(2, 6), 6),
    "VAE(features=6": vae(),
    "GatedLinear(in_features=3, out_features=4": GatedLinear(3, 4),
    "OnParts(size=2": OnParts(2, nn.Identity()),
}


@pytest.mark.parametrize("expected", MODULES)
def test_a_module_says_its_sizes(expected: str) -> None:
    # With modules below it, torch writes a module's own line on the next one.
    assert re.sub(r"\(\s+", "(", repr(MODULES[expected])).startswith(expected)


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_every_module_of_the_books_models_says_a_size(name: str) -> None:
    for module in book_model(name, DATA["digits"]).modules():
        if type(module).__module__.startswith("flowvae_tutorial"):
            assert re.search(r"(features|size|inputs)=\d", repr(module)), repr(module)
