"""Trains the models of the live figures and packs their weights: python tools/live.py [figure …]

A page has no Python, so its figure brings a model with it: a script with the weights in 16 bits, in
8 where there are many, the run they are of and their checksum. The models are those of the
chapters, smaller where a reader would otherwise wait for a frame.
"""

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    CouplingFlow,
    FlowMatchingPrior,
    FlowPosterior,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    HierarchicalPrior,
    VampPrior,
    build,
    fit,
    fit_reward,
    mlp,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.models import Sizes
from flowvae_tutorial.networks import LOG_SCALE_BOUNDS, OnParts, TwoInputs, dense
from flowvae_tutorial.priors import pseudo_inputs_from
from flowvae_tutorial.storage.files import write_whole

LIVE = Path(__file__).parents[1] / "book" / "live"
Modules = dict[str, nn.Module]
# Of the ring, counted from the right against the clock: that a reward of chapter 6 asks for.
WISHED_GROUP = 2
# Log SNR, from the clean end to the noisy one.
LAMBDAS = torch.linspace(4, -4, 65)


def posteriors() -> tuple[Modules, str]:
    """Chapter 5: a VAE of the ring, and a flow posterior that is fitted to its frozen decoder."""
    modules = untrained_posteriors()
    rings, settings = load("rings"), {"batch_size": 128, "lr": 4e-3, "decay": 0.5}
    gaussian, flow = modules["gaussian"], modules["flow"]
    torch.manual_seed(0)
    vae = build("gaussian", rings, Sizes(2, (64, 64)))
    fit(vae, rings, seed=0, epochs=80, **settings)
    modules["likelihood"].load_state_dict(vae.likelihood.state_dict())
    gaussian.load_state_dict(vae.posterior.state_dict())
    flow.net.load_state_dict(vae.posterior.net.state_dict())
    frozen = VAE(vae.prior, flow, vae.likelihood.requires_grad_(False))
    fit(frozen, rings, seed=0, epochs=120, warmup=0, **settings)
    return modules, "the ring, N(0, I), seed 0: 80 epochs, then 120 of the flow behind it"


def untrained_posteriors() -> Modules:
    torch.manual_seed(0)
    vae = build("gaussian", load("rings"), Sizes(2, (64, 64)))
    net = build("gaussian", load("rings"), Sizes(2, (64, 64))).posterior.net
    flow = CouplingFlow(2, context=2, transforms=4, hidden=(32,))
    return {
        "likelihood": vae.likelihood,
        "gaussian": GaussianPosterior(net),
        "flow": FlowPosterior(vae.posterior.net, flow),
    }


def falling(lr: float, step: int, steps: int) -> float:
    """The size of a step: it falls in the second half."""
    return lr * min(1, 2 - 2 * step / steps)


def fit_density(flow: CouplingFlow, points: Tensor, steps: int) -> None:
    """Maximum likelihood, as in section 4.3, with a step that falls in the second half."""
    optimizer = torch.optim.Adam(flow.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = falling(5e-3, step, steps)
        rows = torch.randint(len(points), (256,))
        loss = -flow().log_prob(points[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def layers() -> tuple[Modules, str]:
    """Chapter 4: four couplings, affine and spline, fitted to the points of the ring."""
    modules = untrained_layers()
    for flow in modules.values():
        torch.manual_seed(0)
        fit_density(flow, load("rings").train, steps=1000)
    return modules, "the ring's points, four couplings, seed 0, 1,000 steps"


def untrained_layers() -> Modules:
    torch.manual_seed(0)
    return {
        kind: CouplingFlow(2, transforms=4, hidden=(32, 32), kind=kind)
        for kind in ("affine", "spline")
    }


def walk() -> tuple[Modules, str]:
    """Chapter 6: a spline flow on the points of the ring, and a reward for one of the groups."""
    modules, rings = untrained_walk(), load("rings")
    torch.manual_seed(0)
    fit_density(modules["flow"], rings.train, steps=1000)
    torch.manual_seed(0)
    reward = fit_reward(rings.train, rings.labels["train"] == WISHED_GROUP, hidden=(16,))
    modules["reward"].load_state_dict(reward.net.state_dict())
    return (
        modules,
        "the ring's points, four spline couplings, seed 0, 1,000 steps; a reward, seed 0",
    )


def untrained_walk() -> Modules:
    torch.manual_seed(0)
    flow = CouplingFlow(2, transforms=4, hidden=(32, 32), kind="spline")
    return {"flow": flow, "reward": mlp(2, [16], 1)}


def pseudo() -> tuple[Modules, str]:
    """Chapter 2: a VAE of the ring with a VampPrior of a few pseudo-inputs."""
    modules, rings = untrained_pseudo(), load("rings")
    vae = VAE(modules["prior"], modules["posterior"], modules["likelihood"])
    fit(vae, rings, seed=0, epochs=80, batch_size=128, lr=4e-3, decay=0.5)
    return modules, "the ring, VampPrior of 16, seed 0, 80 epochs"


def untrained_pseudo() -> Modules:
    torch.manual_seed(0)
    vae = build("vampprior", load("rings"), Sizes(2, (32, 32), pseudo_inputs=16))
    return {"prior": vae.prior, "posterior": vae.posterior, "likelihood": vae.likelihood}


class Denoiser(nn.Module):
    """The network of section 7.5: the best guess of x from z at a log SNR, for every number of T.

    With it go the variance of a coordinate, and the mean squared error at each of `LAMBDAS`, from
    which the figure has its bounds.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.variance = nn.Parameter(torch.ones(1), requires_grad=False)
        self.errors = nn.Parameter(torch.zeros(len(LAMBDAS)), requires_grad=False)
        self.net = mlp(3, [width] * 3, 2)

    def forward(self, z: Tensor, lam: Tensor) -> Tensor:
        """From `(N, 2)` and `(N, 1)` to `(N, 2)`."""
        a, s = lam.sigmoid().sqrt(), (-lam).sigmoid().sqrt()
        total = a**2 * self.variance + s**2
        correction = self.net(torch.cat([z / total.sqrt(), lam / 4], dim=-1))
        return a * self.variance / total * z + s * (self.variance / total).sqrt() * correction


def squared_errors(denoise: Denoiser, x: Tensor, lam: Tensor) -> Tensor:
    """‖x − x̂‖² at a level for each point, `(N,)`."""
    z = lam.sigmoid().sqrt() * x + (-lam).sigmoid().sqrt() * torch.randn_like(x)
    return (x - denoise(z, lam)).square().sum(-1)


def levels() -> tuple[Modules, str]:
    """Chapter 7: a denoiser of the ring, trained on all levels at once."""
    modules, x, steps, batch = untrained_levels(), load("rings").train, 4000, 256
    denoise = modules["denoiser"]
    # As the page will have it.
    denoise.variance.data = x.var(0).mean(0, keepdim=True).half().float()
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(denoise.net.parameters(), fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = falling(5e-3, step, steps)
        even = (torch.arange(batch) + torch.rand(())) / batch
        lam = (8 * even - 4)[:, None]
        rows = x[torch.randint(len(x), (batch,))]
        loss = 4 * (lam[:, 0].exp() * squared_errors(denoise, rows, lam)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for i, lam in enumerate(LAMBDAS):
            many = x.repeat(10, 1)
            denoise.errors[i] = squared_errors(denoise, many, lam.expand(len(many), 1)).mean()
    return modules, "a denoiser of the ring, seed 0, 4,000 steps on all levels"


def untrained_levels() -> Modules:
    torch.manual_seed(0)
    return {"denoiser": Denoiser()}


def pinwheel(count: int) -> Tensor:
    """Five blades: Gaussians along a ray, which turns the further out they are. As in `data.js`."""
    radius, across = 1.5 + 0.45 * torch.randn(count), 0.16 * torch.randn(count)
    angle = 2 * torch.pi * torch.randint(5, (count,)) / 5 + 0.5 * radius
    ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return radius[:, None] * ray + across[:, None] * ray.flip(-1) * torch.tensor([-1, 1])


def hierarchy() -> tuple[Modules, str]:
    """Chapter 3: two levels of one number each, a VampPrior of 16 on top, on the pinwheel."""
    modules, steps = untrained_hierarchy(), 3000
    top, below = modules["top"], modules["below"]
    prior = HierarchicalPrior(modules["prior"], modules["conditional"])
    vae = VAE(prior, HierarchicalPosterior(top, below), modules["likelihood"])
    torch.manual_seed(2)
    x = pinwheel(2000)
    modules["prior"].pseudo_inputs.data = pseudo_inputs_from(x, 16, bounds=None)
    optimizer = torch.optim.Adam(vae.parameters(), fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = falling(4e-3, step, steps)
        loss = vae.loss(x[torch.randint(len(x), (128,))], beta=min(1, step / 600))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return modules, "a pinwheel, one number a level, VampPrior of 16 on top, seed 2, 3,000 steps"


def untrained_hierarchy(width: int = 32) -> Modules:
    torch.manual_seed(2)

    def both(second: int, out: int) -> TwoInputs:
        return TwoInputs(dense(second, width), dense(1, width), mlp(2 * width, [width], out))

    top = GaussianPosterior(mlp(2, [width] * 2, 2), LOG_SCALE_BOUNDS)
    return {
        "top": top,
        "below": GaussianPosterior(both(2, 2), LOG_SCALE_BOUNDS),
        "prior": VampPrior(top, torch.zeros(16, 2), bounds=None),
        "conditional": GaussianPosterior(mlp(1, [width] * 2, 2)),
        "likelihood": GaussianLikelihood(OnParts(1, both(1, 2)), 2),
    }


def particles() -> tuple[Modules, str]:
    """Chapter 8: the velocity field of section 8.4, matched to the points of the ring."""
    modules, codes, steps = untrained_particles(), load("rings").train, 3000
    prior = modules["prior"]
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = falling(5e-3, step, steps)
        loss = prior.matching_loss(codes[torch.randint(len(codes), (256,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return modules, "the ring's points, a velocity field of 64–64, seed 0, 3,000 steps"


def untrained_particles() -> Modules:
    torch.manual_seed(0)
    return {"prior": FlowMatchingPrior(2)}


def digits() -> tuple[Modules, str]:
    """Chapter 1: a VAE of the digits with two latent numbers."""
    modules, data = untrained_digits(), load("digits")
    vae = VAE(build("gaussian", data, Sizes(2, (64, 64))).prior, *modules.values())
    fit(vae, data, seed=0, epochs=100, batch_size=64, lr=3e-3, decay=0.5, warmup=20)
    return modules, "the 8×8 digits, two latent numbers, N(0, I), seed 0, 100 epochs"


def untrained_digits() -> Modules:
    torch.manual_seed(0)
    vae = build("gaussian", load("digits"), Sizes(2, (64, 64)))
    return {"posterior": vae.posterior, "likelihood": vae.likelihood}


class Codes(nn.Module):
    """q(z | x) of real examples, by their means and log-scales: a page has no data."""

    def __init__(self, count: int, latent: int = 2) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(count, latent), requires_grad=False)
        self.log_scale = nn.Parameter(torch.zeros(count, latent), requires_grad=False)


def pixels() -> tuple[Modules, str]:
    """Chapter 2: the digits with two latent numbers and a VampPrior of a few pseudo-inputs."""
    modules, data = untrained_pixels(), load("digits")
    vae = VAE(modules["prior"], modules["posterior"], modules["likelihood"])
    fit(vae, data, seed=0, epochs=100, batch_size=64, lr=3e-3, decay=0.5, warmup=20)
    codes = modules["codes"]
    with torch.no_grad():
        q = vae.posterior(data.validation).base_dist
        codes.loc.copy_(q.loc)
        codes.log_scale.copy_(q.scale.log())
    return modules, "the 8×8 digits, two latent numbers, VampPrior of 8, seed 0, 100 epochs"


def untrained_pixels() -> Modules:
    torch.manual_seed(0)
    vae = build("vampprior", load("digits"), Sizes(2, (64, 64), pseudo_inputs=8))
    return {
        "prior": vae.prior,
        "posterior": vae.posterior,
        "likelihood": vae.likelihood,
        "codes": Codes(180),
    }


def mnist() -> tuple[Modules, str]:
    """Chapter 6: MNIST with two latent numbers; of the VampPrior, its components are enough."""
    modules, data = untrained_mnist(), load("dynamic-mnist")
    torch.manual_seed(0)
    posterior = GaussianPosterior(mlp(784, [128, 64], 4), LOG_SCALE_BOUNDS)
    prior = VampPrior(posterior, pseudo_inputs_from(data.train, 64))
    vae = VAE(prior, posterior, BernoulliLikelihood(mlp(2, [64, 128], 784)))
    fit(vae, data, seed=0, epochs=20, batch_size=250, lr=2e-3, decay=0.5, warmup=5)
    with torch.no_grad():
        components = posterior(prior.pseudo_inputs).base_dist
        modules["prior"].loc.copy_(components.loc)
        modules["prior"].log_scale.copy_(components.scale.log())
    modules["likelihood"].load_state_dict(vae.likelihood.state_dict())
    return modules, "MNIST, two latent numbers, VampPrior of 64, seed 0, 20 epochs"


def untrained_mnist() -> Modules:
    torch.manual_seed(0)
    prior = GaussianMixture(2, 64)
    return {"prior": prior, "likelihood": BernoulliLikelihood(mlp(2, [64, 128], 784))}


# Each figure's modules, trained with the name of their run, and as they are before their weights.
FIGURES: dict[str, tuple[Callable[[], tuple[Modules, str]], Callable[[], Modules]]] = {
    "digits": (digits, untrained_digits),
    "hierarchy": (hierarchy, untrained_hierarchy),
    "layers": (layers, untrained_layers),
    "levels": (levels, untrained_levels),
    "mnist": (mnist, untrained_mnist),
    "particles": (particles, untrained_particles),
    "pixels": (pixels, untrained_pixels),
    "posteriors": (posteriors, untrained_posteriors),
    "pseudo": (pseudo, untrained_pseudo),
    "walk": (walk, untrained_walk),
}


def path_of(figure: str) -> Path:
    """The script that brings a figure its weights."""
    return LIVE / f"weights-{figure}.js"


def is_large(module: nn.Module) -> bool:
    """Whether its weights have 8 bits each."""
    return sum(weight.numel() for weight in module.parameters()) > 50_000


def whole_steps(weight: Tensor) -> bytes:
    """A parameter in 8 bits a number: the size of a step in half precision, then whole steps."""
    # Eleven bits of a step times seven of a whole number are exact in float32, here and on a page.
    step = (weight.abs().max() / 127).half()
    steps = (weight / step.float()).round().clamp(-127, 127)
    return step.numpy().astype("<f2").tobytes() + steps.numpy().astype("i1").tobytes()


def content_of(module: nn.Module) -> bytes:
    """Its parameters, one after another."""
    weights = [weight.detach() for weight in module.parameters()]
    if is_large(module):
        return b"".join(whole_steps(weight) for weight in weights)
    return b"".join(weight.half().numpy().astype("<f2").tobytes() for weight in weights)


def packed(figure: str, modules: Modules, run: str) -> str:
    """The script: what is in it as JSON, the numbers of all modules after one another in base64."""
    content = b"".join(content_of(module) for module in modules.values())
    parts = {
        name: {
            "count": sum(weight.numel() for weight in module.parameters()),
            # A flow's permutations are drawn at random.
            "orders": [m.orders.tolist() for m in module.modules() if isinstance(m, CouplingFlow)],
            **({"bytes": len(content_of(module))} if is_large(module) else {}),
        }
        for name, module in modules.items()
    }
    about = {
        "run": run,
        "sha256": hashlib.sha256(content).hexdigest(),
        "parts": parts,
        "data": base64.b64encode(content).decode(),
    }
    return (
        f"// Written by `python tools/live.py {figure}`.\n"
        f'FlowVAE.weights["{figure}"] = {json.dumps(about, ensure_ascii=False)};\n'
    )


def unpacked(script: str) -> tuple[dict[str, Any], bytes]:
    """What stands in such a script, and its numbers as bytes."""
    [written] = re.findall(r'^FlowVAE\.weights\["[\w-]+"\] = (.+);$', script, re.MULTILINE)
    about = json.loads(written)
    return about, base64.b64decode(about["data"])


def read(figure: str) -> Modules:
    """The modules of a figure with the weights that its script holds."""
    about, content = unpacked(path_of(figure).read_text(encoding="utf-8"))
    _, untrained = FIGURES[figure]
    modules, start = untrained(), 0
    for name, part in about["parts"].items():
        for weight in modules[name].parameters():
            if "bytes" in part:
                step = np.frombuffer(content, "<f2", 1, start).astype(np.float32)
                values = step * np.frombuffer(content, "i1", weight.numel(), start + 2)
                start += 2 + weight.numel()
            else:
                values = np.frombuffer(content, "<f2", weight.numel(), start).astype(np.float32)
                start += 2 * weight.numel()
            weight.data = torch.from_numpy(values).view_as(weight)
        flows = [m for m in modules[name].modules() if isinstance(m, CouplingFlow)]
        for flow, orders in zip(flows, part["orders"], strict=True):
            flow.orders = torch.tensor(orders)
            flow.orders_back = flow.orders.argsort(-1)
    return modules


if __name__ == "__main__":
    torch.set_num_threads(1)
    for figure in sys.argv[1:] or FIGURES:
        trained, _ = FIGURES[figure]
        write_whole(path_of(figure), packed(figure, *trained()).encode())
        print(f"{path_of(figure)}: {path_of(figure).stat().st_size / 1e3:.0f} kB")
