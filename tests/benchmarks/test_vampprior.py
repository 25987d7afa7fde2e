"""What the paper's VampPrior costs: `make bench`, on request and on an idle machine.

The model is the VampPrior VAE of Tomczak and Welling (2018): 784-300-300-40, gated, Bernoulli
likelihood, 500 pseudo-inputs, batch 100, one thread. Training is measured beside pythae's VAMP
with the same `GatedLinear` layers, each side as its own loop does it: `test_training_step.py`
says what that is. Evaluation is measured beside the same VAE with the standard prior.

Times are CPU times, each contestant in a process of its own, in turns; only their ratios mean
anything on a shared machine. pythae subtracts 500 means from 100 latents in tensors of 8 MB,
which glibc gives back to the system, so that every step pays for page faults. They are part of
what its users wait for and so of its time. The ratio of user times, without them, is printed too:
it is the higher one, for our matrix products alone take about half of pythae's user time.
"""

import functools

import pytest
import torch
from common import (
    BATCH,
    COMPONENTS,
    HIDDEN,
    LATENT,
    PIXELS,
    Decoder,
    Encoder,
    Step,
    images,
    our_training_step,
    pythae_training_step,
    ratio,
    report,
    time_in_turns,
    total,
    user,
)
from pythae.models import VAMP, VAMPConfig
from torch import Tensor

from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    GaussianPosterior,
    StandardNormal,
    gated_mlp,
)
from flowvae_tutorial.priors import VampPrior, pseudo_inputs_from

SAMPLES, EVALUATED = 5000, 4


def our_vae(vamp: bool) -> VAE:
    posterior = GaussianPosterior(gated_mlp(PIXELS, HIDDEN, 2 * LATENT))
    start = pseudo_inputs_from(images(COMPONENTS), COMPONENTS)
    prior = VampPrior(posterior, start) if vamp else StandardNormal(LATENT)
    return VAE(prior, posterior, BernoulliLikelihood(gated_mlp(LATENT, HIDDEN, PIXELS)))


def our_step(vamp: bool = True) -> Step:
    return our_training_step(our_vae(vamp), images())


def pythae_step(fused: bool | None = None) -> Step:
    config = VAMPConfig(
        input_dim=(PIXELS,),
        latent_dim=LATENT,
        reconstruction_loss="bce",
        number_components=COMPONENTS,
    )
    vae = VAMP(
        config,
        Encoder(gated_mlp(PIXELS, HIDDEN, 2 * LATENT)),
        Decoder(gated_mlp(LATENT, HIDDEN, PIXELS)),
    )
    return pythae_training_step(vae, fused)


def products() -> Step:
    """The matrix products of our step, forward and backward, and nothing else."""
    calls: list[tuple[Tensor, Tensor]] = []

    def layer(rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> None:
        x, weight, gradient = (
            torch.rand(shape, dtype=dtype)
            for shape in [(rows, inputs), (outputs, inputs), (rows, outputs)]
        )
        calls.extend([(x, weight.T), (gradient.T, x), (gradient, weight)])

    def gated(rows: int, inputs: int, outputs: int) -> None:
        first, second = HIDDEN
        layer(rows, inputs, 2 * first)
        layer(rows, first, 2 * second)
        layer(rows, second, outputs)

    gated(BATCH, PIXELS, 2 * LATENT)
    # The images need no gradient; the pseudo-inputs do.
    del calls[2]
    gated(COMPONENTS, PIXELS, 2 * LATENT)
    gated(BATCH, LATENT, PIXELS)
    # The mixture's: z² and z against 500 components.
    layer(BATCH, 2 * LATENT, COMPONENTS, torch.float64)

    def step() -> None:
        for a, b in calls:
            torch.mm(a, b)

    return step


def evaluation(vamp: bool) -> Step:
    x, vae = images(EVALUATED), our_vae(vamp)
    return lambda: vae.log_marginal(x, SAMPLES)


@pytest.mark.timeout(900)
def test_a_training_step_is_not_slower_than_pythae_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = time_in_turns(
        {
            "ours": our_step,
            "pythae": pythae_step,
            "pythae, fused Adam": functools.partial(pythae_step, fused=True),
            "ours, its matrix products alone": products,
            "ours, standard prior": functools.partial(our_step, vamp=False),
        },
        rounds=40,
        steps=5,
    )
    ours = seconds["ours"]
    spread = ratio(total(ours), total(seconds["pythae"]))
    beside = {
        "the same, fused Adam on both sides": "pythae, fused Adam",
        "ours / its matrix products alone": "ours, its matrix products alone",
        "ours / ours with the standard prior": "ours, standard prior",
    }
    ratios = {label: ratio(total(ours), total(seconds[name])) for label, name in beside.items()}
    by_user = ratio(user(ours), user(seconds["pythae"]))
    with capsys.disabled():
        report(seconds, {"ours / pythae": spread, "the same, user time alone": by_user, **ratios})
    assert spread.low <= 1


@pytest.mark.timeout(900)
def test_what_evaluation_costs_beside_that_of_the_standard_prior(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = time_in_turns(
        {
            "log_marginal, VampPrior": functools.partial(evaluation, vamp=True),
            "log_marginal, standard prior": functools.partial(evaluation, vamp=False),
        },
        rounds=15,
        steps=1,
    )
    vamp, standard = (total(turns) for turns in seconds.values())
    with capsys.disabled():
        report(seconds, {"VampPrior / standard prior": ratio(vamp, standard)})
