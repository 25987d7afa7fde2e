"""CPU time of one training step beside pythae: `make bench`, on request and on an idle machine.

The model is the VAE of Tomczak and Welling (2018): 784-300-300-40, gated, Bernoulli likelihood,
batch 100, one thread. Both sides get the same batch and the same `GatedLinear` layers, so that
only the frameworks differ, and each side trains as its own loop does:

- ours as `fit`: `Adam(fused=True)`, the finiteness of the loss looked at once an epoch;
- pythae as `BaseTrainer`: the plain `torch.optim.Adam` that its configuration defaults to, and
  `loss.item()` at every step.

Neither side's loading of data is part of a step. Times are CPU times of this process, in
interleaved rounds; only their ratios mean anything on a shared machine. Further ratios are
printed: with fused Adam on both sides, with plain (ungated) layers on both, and with pythae's
gates as two products each, as its users would write them.
"""

import statistics
import time

import pytest
import torch
from common import BATCH, HIDDEN, LATENT, LR, PIXELS, Decoder, Encoder, Network, Step, images
from pytest_benchmark.fixture import BenchmarkFixture
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
AT_MOST = 0.75


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


def our_step(x: Tensor, network: Network = gated_mlp) -> Step:
    vae = VAE(
        StandardNormal(LATENT),
        GaussianPosterior(network(PIXELS, HIDDEN, 2 * LATENT)),
        BernoulliLikelihood(network(LATENT, HIDDEN, PIXELS)),
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR, fused=True)

    def step() -> Tensor:
        loss = vae(x, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def pythae_step(x: Tensor, network: Network = gated_mlp, fused: bool | None = None) -> Step:
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    vae = PythaeVAE(
        config,
        Encoder(network(PIXELS, HIDDEN, 2 * LATENT)),
        Decoder(network(LATENT, HIDDEN, PIXELS)),
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR, fused=fused)
    inputs = {"data": x}

    def step() -> float:
        output = vae(inputs, epoch=1, dataset_size=BATCH, uses_ddp=False)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        return output.loss.item()

    return step


def cpu_seconds(step: Step) -> float:
    start = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - start) / STEPS


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.timeout(900)
def test_a_training_step_takes_at_most_three_quarters_of_pythae_s_cpu_time(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = images()
    ours, theirs = our_step(x), pythae_step(x)
    others = {
        "ours, plain layers": our_step(x, mlp),
        "pythae, fused Adam": pythae_step(x, fused=True),
        "pythae, plain layers": pythae_step(x, mlp),
        "pythae, two products a gate": pythae_step(x, two_product_mlp),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ["ours", "pythae", *others]}

    def the_others_take_their_turn() -> None:
        """Runs before each of our rounds, so that all see the same load of the machine."""
        for name, step in {"pythae": theirs, **others}.items():
            seconds[name].append(cpu_seconds(step))

    def our_turn() -> None:
        seconds["ours"].append(cpu_seconds(ours))

    benchmark.pedantic(our_turn, setup=the_others_take_their_turn, rounds=ROUNDS, warmup_rounds=3)
    median = {name: statistics.median(values[3:]) for name, values in seconds.items()}
    ratios = {
        "ours / pythae": median["ours"] / median["pythae"],
        "the same, fused Adam on both sides": median["ours"] / median["pythae, fused Adam"],
        "the same, plain layers on both sides": (
            median["ours, plain layers"] / median["pythae, plain layers"]
        ),
        "ours / pythae, its gates as two products": (
            median["ours"] / median["pythae, two products a gate"]
        ),
    }
    benchmark.extra_info.update(ratios)
    with capsys.disabled():
        print()
        for name, value in median.items():
            print(f"{name:42}{1e3 * value:8.2f} ms CPU a step")
        for name, ratio in ratios.items():
            print(f"{name:42}{ratio:8.2f}")
    assert ratios["ours / pythae"] <= AT_MOST
