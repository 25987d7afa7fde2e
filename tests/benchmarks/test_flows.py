"""What a flow costs beside zuko and normflows: `make bench`, on request and on an idle machine.

40 dimensions, 4 couplings, batch 100, one thread; forward and backward of a sample with its
log-density and of the log-density of given z, which get a gradient, too, as they do under a VAE.
All sides have SiLU networks of 20-64-64-P numbers; splines have 8 bins in [-5, 5]. Beside the
couplings one diagonal affine map is learned: the last map of ours, the base of the other two. So
all have equally many parameters; the table says how many. Weights are drawn at random, for no
flow in training is the identity.

Each side runs in the directions that it offers:

- ours: from noise to z for samples and back for densities, each network once either way;
- zuko: a coupling maps z to noise, one run of its network for `log_prob`. Samples invert it and
  then ask for the log-determinant, which runs the network once more. zuko's remedy is a flow of
  inverted couplings, for which it is the other way round. Both take part;
- normflows: each network once either way. `log_prob` and `sample`, which returns log-densities
  and lets gradients through, are its API. Its splines are evaluated for `log_prob` and inverted
  for `sample`; ours the other way round.

Times are CPU times, each contestant in a process of its own, in turns; only their ratios mean
anything on a shared machine.
"""

import functools
import statistics

import normflows
import pytest
import torch
import zuko
from common import BATCH, LATENT, Step, ratio, time_in_turns, total
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from torch import Tensor, nn
from zuko.flows import GeneralCouplingTransform
from zuko.transforms import MonotonicRQSTransform

from flowvae_tutorial import CouplingFlow, mlp, rsample_and_log_prob
from flowvae_tutorial.splines import BINS, BOX

COUPLINGS, WIDTHS = 4, (64, 64)
# Rounds and steps.
TURNS = {"affine": (100, 20), "spline": (40, 5)}
OPERATIONS = ["rsample_and_log_prob", "log_prob"]


class Ours(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.flow = CouplingFlow(LATENT, transforms=COUPLINGS, hidden=WIDTHS, kind=kind)

    def sample(self) -> tuple[Tensor, Tensor]:
        return rsample_and_log_prob(self.flow(), (BATCH,))

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow().log_prob(z)


class Zuko(nn.Module):
    def __init__(self, kind: str, inverted: bool) -> None:
        super().__init__()
        spline = {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
        couplings = [
            GeneralCouplingTransform(
                LATENT,
                mask=torch.arange(LATENT) % 2 == index % 2,
                hidden_features=WIDTHS,
                activation=nn.SiLU,
                **(spline if kind == "spline" else {}),
            )
            for index in range(COUPLINGS)
        ]
        base = zuko.lazy.UnconditionalDistribution(
            zuko.distributions.DiagNormal, torch.zeros(LATENT), torch.ones(LATENT)
        )
        self.flow = zuko.lazy.Flow([c.inv for c in couplings] if inverted else couplings, base)

    def sample(self) -> tuple[Tensor, Tensor]:
        return self.flow().rsample_and_log_prob((BATCH,))

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow().log_prob(z)


class WithoutContext(nn.Module):
    """A network as normflows' splines want it: they hand it a context, here None."""

    # They divide the numbers for widths and heights by its root.
    hidden_features = WIDTHS[-1]

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.net = mlp(in_features, WIDTHS, out_features)

    def forward(self, x: Tensor, context: None) -> Tensor:
        return self.net(x)


class SplineCoupling(normflows.flows.CoupledRationalQuadraticSpline):
    """normflows' own has a residual network, and splines of the part that passes unchanged."""

    def __init__(self) -> None:
        super().__init__(LATENT, 1, WIDTHS[0])
        self.prqct = PiecewiseRationalQuadraticCoupling(
            torch.arange(LATENT) % 2, WithoutContext, num_bins=BINS, tails="linear", tail_bound=BOX
        )


class Normflows(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        maps: list[nn.Module] = []
        for _ in range(COUPLINGS):
            coupling = (
                SplineCoupling()
                if kind == "spline"
                else normflows.flows.AffineCouplingBlock(mlp(LATENT // 2, WIDTHS, LATENT))
            )
            maps += [coupling, normflows.flows.Permute(LATENT)]
        self.flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(LATENT), maps)

    def sample(self) -> tuple[Tensor, Tensor]:
        return self.flow.sample(BATCH)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow.log_prob(z)


MAKERS = {
    "ours": Ours,
    "zuko": functools.partial(Zuko, inverted=False),
    "zuko, inverted": functools.partial(Zuko, inverted=True),
    "normflows": Normflows,
}


def forward_and_backward(name: str, kind: str, operation: str) -> Step:
    model = MAKERS[name](kind)
    parameters = list(model.parameters())
    for parameter in parameters:
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.1)
    z = torch.randn(BATCH, LATENT, requires_grad=True)

    def sample() -> object:
        sampled, log_prob = model.sample()
        return torch.autograd.grad(sampled.sum() + log_prob.sum(), parameters)

    def log_prob() -> object:
        return torch.autograd.grad(model.log_prob(z).sum(), [z, *parameters])

    return log_prob if operation == "log_prob" else sample


@pytest.mark.timeout(1800)
def test_a_flow_is_not_slower_than_zuko_s_and_normflows_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [f"{'ms CPU, and ours / theirs':36}" + "".join(f"{n:>26}" for n in MAKERS)]
    slower = []
    for kind, turns in TURNS.items():
        counts = [sum(p.numel() for p in make(kind).parameters()) for make in MAKERS.values()]
        assert len(set(counts)) == 1, "unequal flows"
        lines.append(f"{kind + ', parameters':36}" + "".join(f"{count:26}" for count in counts))
        for operation in OPERATIONS:
            makers = {
                name: functools.partial(forward_and_backward, name, kind, operation)
                for name in MAKERS
            }
            seconds = {name: total(turn) for name, turn in time_in_turns(makers, *turns).items()}
            ratios = {name: ratio(seconds["ours"], theirs) for name, theirs in seconds.items()}
            slower += [(kind, operation, name) for name, r in ratios.items() if r.low > 1]
            cells = [
                f"{1e3 * statistics.median(seconds[name]):9.2f}  {ratios[name]}" for name in MAKERS
            ]
            lines.append(f"{kind + ', ' + operation:36}" + "".join(f"{c:>26}" for c in cells))
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert slower == []
