"""VAEs with flexible priors and posteriors: the package beside the book."""

import os
import signal
import sys

# Ctrl-C amid the imports of a command, which take seconds, ends it without a traceback. Until a
# module is found, `-m` is its name. A shell may have told it not to listen at all.
if os.path.basename((sys.argv or [""])[0]) in ("-m", "flowvae", "flowvae.exe"):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from .autoregressive import AutoregressiveFlow
from .comparison import energy_distance, modes_found, precision_and_recall
from .distributions import Chain, rsample_and_log_prob
from .errors import InputError
from .evaluation import (
    Evaluation,
    Surgery,
    active_units,
    aggregated_posterior,
    elbo_by_level,
    elbo_surgery,
    evaluate,
    mean_and_standard_error,
    prior_gap,
)
from .flow_matching import FlowMatchingPrior
from .flows import CouplingFlow, Flow
from .history import History
from .likelihoods import BernoulliLikelihood, GaussianLikelihood
from .mixtures import Mixture
from .models import build
from .networks import gated_mlp, mlp
from .posteriors import FlowPosterior, GaussianPosterior, HierarchicalPosterior
from .pretrained import load_pretrained
from .priors import (
    GaussianMixture,
    HierarchicalPrior,
    StandardNormal,
    VampPrior,
    pseudo_inputs_from,
)
from .refinement import Refined, Trace, refine, refine_with_trace
from .rewards import fit_reward
from .storage.own_data import own_data
from .storage.trained import load_model, save_model
from .training import fit
from .vae import ELBO, VAE

__version__ = "0.2.0"

__all__ = [
    "ELBO",
    "VAE",
    "AutoregressiveFlow",
    "BernoulliLikelihood",
    "Chain",
    "CouplingFlow",
    "Evaluation",
    "Flow",
    "FlowMatchingPrior",
    "FlowPosterior",
    "GaussianLikelihood",
    "GaussianMixture",
    "GaussianPosterior",
    "HierarchicalPosterior",
    "HierarchicalPrior",
    "History",
    "InputError",
    "Mixture",
    "Refined",
    "StandardNormal",
    "Surgery",
    "Trace",
    "VampPrior",
    "active_units",
    "aggregated_posterior",
    "build",
    "elbo_by_level",
    "elbo_surgery",
    "energy_distance",
    "evaluate",
    "fit",
    "fit_reward",
    "gated_mlp",
    "load_model",
    "load_pretrained",
    "mean_and_standard_error",
    "mlp",
    "modes_found",
    "own_data",
    "precision_and_recall",
    "prior_gap",
    "pseudo_inputs_from",
    "refine",
    "refine_with_trace",
    "rsample_and_log_prob",
    "save_model",
]
