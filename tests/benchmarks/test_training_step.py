"""CPU time of one training step beside pythae: `make bench`, on request and on an idle machine.

The model is the VAE of Tomczak and Welling (2018): 784-300-300-40, gated, Bernoulli likelihood,
batch 100, one thread. Both sides get the same batch and the same `GatedLinear` layers, so that
only the frameworks differ, and each side trains as its own loop does:

- ours as `fit`: `Adam(fused=True)`, the finiteness of the loss looked at once an epoch;
- pythae as `BaseTrainer`: the plain `torch.optim.Adam` that its configuration defaults to, and
  `loss.item()` at every step.

Neither side's loading of data is part of a step. Times are CPU times, each contestant in a process
of its own, in turns; only their ratios mean anything on a shared machine. Further ratios are
printed: of user times alone, without the page faults that the system serves; with fused Adam on
both sides; with plain (ungated) layers on both; and with pythae's gates as two products each, as
its users would write them.
"""

import functools

import pytest
from common import (
    HIDDEN,
    LATENT,
    PIXELS,
    Decoder,
    Encoder,
    Network,
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
from pythae.models import VAE as PythaeVAE
from pythae.models import VAEConfig
from torch import Tensor, nn

from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    GaussianPosterior,
    StandardNormal,
    gated_mlp,
    mlp,
)

ROUNDS, STEPS = 60, 8


class TwoProductGate(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.value = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


def two_product_mlp(in_features: int, hidden: tuple[int, ...], out_features: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in hidden:
        layers.append(TwoProductGate(in_features, width))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


def our_step(network: Network = gated_mlp) -> Step:
    x = images()
    vae = VAE(
        StandardNormal(LATENT),
        GaussianPosterior(network(PIXELS, HIDDEN, 2 * LATENT)),
        BernoulliLikelihood(network(LATENT, HIDDEN, PIXELS)),
    )
    return our_training_step(vae, x)


def pythae_step(network: Network = gated_mlp, fused: bool | None = None) -> Step:
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    vae = PythaeVAE(
        config,
        Encoder(network(PIXELS, HIDDEN, 2 * LATENT)),
        Decoder(network(LATENT, HIDDEN, PIXELS)),
    )
    return pythae_training_step(vae, fused)


@pytest.mark.timeout(900)
def test_a_training_step_is_not_slower_than_pythae_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = time_in_turns(
        {
            "ours": our_step,
            "pythae": pythae_step,
            "ours, plain layers": functools.partial(our_step, mlp),
            "pythae, fused Adam": functools.partial(pythae_step, fused=True),
            "pythae, plain layers": functools.partial(pythae_step, mlp),
            "pythae, two products a gate": functools.partial(pythae_step, two_product_mlp),
        },
        ROUNDS,
        STEPS,
    )
    ours, pythae = seconds["ours"], seconds["pythae"]
    spread = ratio(total(ours), total(pythae))
    fused, plain, gates = (
        seconds[f"pythae, {which}"]
        for which in ("fused Adam", "plain layers", "two products a gate")
    )
    ratios = {
        "ours / pythae": spread,
        "the same, user time alone": ratio(user(ours), user(pythae)),
        "the same, fused Adam on both sides": ratio(total(ours), total(fused)),
        "the same, plain layers on both sides": ratio(
            total(seconds["ours, plain layers"]), total(plain)
        ),
        "ours / pythae, its gates as two products": ratio(total(ours), total(gates)),
    }
    with capsys.disabled():
        report(seconds, ratios)
    assert spread.low <= 1
