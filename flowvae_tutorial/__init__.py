"""VAEs with flexible priors and posteriors: the package beside the book."""

from .distributions import rsample_and_log_prob
from .errors import InputError
from .evaluation import (
    Evaluation,
    active_units,
    aggregated_posterior,
    evaluate,
    mean_and_standard_error,
    prior_gap,
)
from .likelihoods import BernoulliLikelihood, GaussianLikelihood
from .models import build
from .networks import gated_mlp, mlp
from .posteriors import GaussianPosterior
from .priors import GaussianMixture, StandardNormal
from .training import History, fit
from .vae import ELBO, VAE

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "VAE",
    "BernoulliLikelihood",
    "Evaluation",
    "GaussianLikelihood",
    "GaussianMixture",
    "GaussianPosterior",
    "History",
    "InputError",
    "StandardNormal",
    "active_units",
    "aggregated_posterior",
    "build",
    "evaluate",
    "fit",
    "gated_mlp",
    "mean_and_standard_error",
    "mlp",
    "prior_gap",
    "rsample_and_log_prob",
]
