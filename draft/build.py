"""Builds the draft of the chapter on flow matching: python draft/build.py"""
import json
from pathlib import Path

CELLS = []


def md(cid, text):
    CELLS.append(("markdown", cid, text.strip("\n"), {}))


def code(cid, text, tags=(), alt=None):
    meta = {}
    if alt:
        meta["mystnb"] = {"image": {"alt": alt}}
    if tags:
        meta["tags"] = list(tags)
    CELLS.append(("code", cid, text.strip("\n"), meta))


md("c000", """
# 8 · Latent diffusion at home

[Open this chapter in Colab](https://colab.research.google.com/github/your-name/flowvae-tutorial/blob/main/book/08_latent_diffusion.ipynb)
""")
code("c001", """
import sys

if "google.colab" in sys.modules:
    %pip install -q --no-deps git+https://github.com/your-name/flowvae-tutorial@v0.1.0
""", ["hide-cell"])
md("c002", r"""
## The question

The image generators that people use today are VAEs with a flexible prior. An encoder and a decoder are trained first, with a weak KL term. Then the prior is learned on their codes: a network that moves noise to codes in many small steps. It is called *latent diffusion*, or *latent flow matching*.

Both halves are in this book already. [Chapter 4](04_flow_priors.ipynb) bends a Gaussian until it lies where the codes are, and fits such a flow to the codes of a trained VAE. [Chapter 7](07_towards_diffusion.ipynb) climbs from noise to data by many levels. What is new when the two meet? What does it cost, and is it a better prior than a coupling flow or a VampPrior?
""")
md("c004", r"""
**When you have read this chapter you can**

- derive the density of a flow in continuous time from the determinant of one small step;
- say what flow matching regresses on, and prove that the best regression moves noise to data;
- compute the density of such a prior exactly, and say how exactly the solver does it;
- train it behind a trained VAE and together with one, and compare both with the priors of chapters 2 and 4;
- say what the number of steps buys, and what a wish costs in variety.

**You need** chapters [4](04_flow_priors.ipynb) and [7](07_towards_diffusion.ipynb); [6](06_refinement.ipynb) for the last section. Symbols that several chapters share are on the [notation page](notation.md).

**Time:** 35 minutes to read, about 80 seconds to run on one CPU thread.
""")
md("c005", r"""
## 8.1 A flow without layers

A coupling flow is a stack of maps. Each moves the points far, and each must be built so that it can be inverted. Now let each map move the points only a little. Take a **velocity field** $v(h, t)$, and a small step $\delta$ of time:

$$
h \;\mapsto\; h + \delta\, v(h, t) .
$$

For a small enough $\delta$ any smooth field will do. Two points that are close get nearly the same push, so none overtakes another, and the step can be undone. No triangular form is needed, and no halves.

Its log-determinant is simple, too. The Jacobian matrix is $I + \delta\, \partial v / \partial h$. For small $\delta$ the determinant of such a matrix is $1 + \delta$ times the trace, because every product that takes an entry off the diagonal takes two of them, and has $\delta^2$. So

$$
\log \det \left( I + \delta\, \frac{\partial v}{\partial h} \right) = \delta \sum_d \frac{\partial v_d}{\partial h_d} + O(\delta^2) .
$$

The sum is the **divergence** of the field, $\operatorname{div} v$. Where it is positive, points move apart, and the density falls.

Make the steps ever smaller and ever more. The path of a point becomes the solution of a differential equation, and the sum of the log-determinants an integral along that path:

$$
\begin{aligned}
\frac{\mathrm d h}{\mathrm d t} &= v(h, t), \qquad h(0) = u, \quad z = h(1), \\
\log p(z) &= \log p_u(u) - \int_0^1 \operatorname{div} v\bigl(h(t), t\bigr)\, \mathrm d t .
\end{aligned}
\tag{8.1}
$$ (eq-continuous-flow)

(Chen et al., 2018.) It is equation [(4.1)](04_flow_priors.ipynb) with a log-determinant that is an integral. Backwards in time it is solved as easily as forwards: from $z$ follow the field from $t = 1$ to $t = 0$, and add up the divergence on the way.
""")
code("c003", """
import math
import time

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from torch import nn
from torch.distributions import Independent, Normal

from flowvae_tutorial import FlowMatchingPrior, build, energy_distance, evaluate
from flowvae_tutorial import fit, mlp, modes_found, plots, refine
from flowvae_tutorial.data import load
from flowvae_tutorial.exercises import chapter08 as exercises
from flowvae_tutorial.experiments import records
from flowvae_tutorial.training import device_by_name
from flowvae_tutorial.notebook import expect, frame_slider

device = device_by_name()
ring = load("rings").to(device)
digits = load("digits").to(device)
""", ["hide-input"])
md("c006", r"""
Does the sum of small steps come to the determinant of the whole map? Take a field in three dimensions that nobody can solve by hand, follow it in 200 plain steps, and ask autograd for the Jacobian matrix of the map that results.
""")
code("c007", """
torch.manual_seed(0)
net = mlp(3, [16], 3).double()


def field(h, t):
    return net(h) * (1 + math.cos(3 * t))


def small_steps(u, steps):
    h, total = u, 0.0
    for step in range(steps):
        t = step / steps
        jacobian = torch.func.jacrev(field)(h, t)
        total = total + jacobian.trace() / steps
        h = h + field(h, t) / steps
    return h, total


u = torch.randn(3, dtype=torch.float64)
for steps in (20, 200, 2000):
    z, total = small_steps(u, steps)
    whole = torch.func.jacrev(lambda u: small_steps(u, steps)[0])(u)
    error = abs(torch.linalg.slogdet(whole)[1] - total)
    print(f"{steps:4} steps: off by {error:.5f} nats")
""", ["exact"])
md("c008", r"""
The difference is the $O(\delta^2)$ of each step, times their number, so it falls as one over the number of steps. In the limit (8.1) is exact.

A plain step is a crude solver. The classical Runge–Kutta method looks at the field four times in each step, and its error falls with the *fourth* power of the number of steps. The package takes sixteen such steps. We shall see how exact that is.

## 8.2 Which field? Straight paths, and their average

A flow like this can be trained as any other prior: ask (8.1) for the density of the codes and raise it. But each density takes dozens of calls of the network, one after the other, and so does its gradient. Diffusion models showed that there is a way without any of this. [Chapter 7](07_towards_diffusion.ipynb) draws a level at random, and a regression at that level is all.

Here is the simplest form of the idea (Lipman et al., 2023). Draw noise $u \sim \mathcal N(0, I)$ and, independently, a code $z_1$. Join them by a straight line, and let a point run along it at constant speed:

$$
z_t = (1 - t)\, u + t\, z_1, \qquad \frac{\mathrm d z_t}{\mathrm d t} = z_1 - u .
$$

At $t = 0$ such points are distributed as noise, at $t = 1$ as codes. If only they moved by a field! They do not: many lines cross in one place, each with its own velocity. So average. Let the field be the mean velocity of all the lines that pass through a place at that time, and find it by regression:

$$
v = \arg\min_v\; \mathbb E_{t,\, u,\, z_1} \bigl\lVert v(z_t, t) - (z_1 - u) \bigr\rVert^2,
\qquad
v(h, t) = \mathbb E\bigl[ z_1 - u \mid z_t = h \bigr] .
\tag{8.2}
$$ (eq-flow-matching)

The second part is what a regression by squares finds: the conditional mean. There is no solver in this, no density and no inverse. One call of the network, one gradient.

*Why may we average?* Because a density does not feel the difference. Count the mass in a small box of space. What flows through a wall of the box in a moment is density times velocity, summed over all the points that are there. That sum is the number of points times their *mean* velocity. So if every point moved with the mean velocity of its place, the mass in every box would change in the same way. The points would take other paths. Their distribution at every time $t$ would be the same, and so it is at $t = 1$: that of the codes.

The next figure has both for codes that are two Gaussians in one dimension, where the mean velocity can be computed. On the left are the straight lines, which cross. On the right are the paths of the field, which never do.
""")
code("c009", """
centres = torch.tensor([-1.5, 1.5], dtype=torch.float64)
width = 0.3


def mean_velocity(h, t):
    \"\"\"E[z₁ − u | z_t = h] for two Gaussians, by Bayes' rule.\"\"\"
    spread = (1 - t) ** 2 + (t * width) ** 2
    off = h[:, None] - t * centres
    share = (-0.5 * off**2 / spread).softmax(-1)
    each = centres + (t * width**2 - (1 - t)) / spread * off
    return (share * each).sum(-1)


def follow(h, steps=200):
    path = [h]
    for step in range(steps):
        t, half = step / steps, 0.5 / steps
        middle = path[-1] + half * mean_velocity(path[-1], t)
        path.append(path[-1] + 2 * half * mean_velocity(middle, t + half))
    return torch.stack(path)


torch.manual_seed(0)
u = torch.linspace(-2.2, 2.2, 34, dtype=torch.float64)
codes = centres[torch.randint(2, u.shape)] + width * torch.randn_like(u)
many = follow(torch.randn(20_000, dtype=torch.float64))
mixture = Normal(centres, width).log_prob(many[-1][:, None])
right = (mixture.logsumexp(-1) - math.log(2)).mean()
exact = centres[torch.randint(2, (20_000,))] + width * torch.randn(20_000)
wanted = Normal(centres, width).log_prob(exact[:, None].double())
wanted = (wanted.logsumexp(-1) - math.log(2)).mean()
expect(right - wanted, 0, within=0.05, label="log p at the ends, less that of codes", unit="nats")
""")
code("c010", """
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
times = torch.linspace(0, 1, 201)
for axis, paths, title in (
    (axes[0], torch.lerp(u, codes, times[:, None].double()), "straight lines, noise to code"),
    (axes[1], follow(u), "the field of their mean velocities"),
):
    axis.plot(times, paths, color=plots.COLOURS[0], linewidth=0.8)
    axis.set(xlabel="time t", title=title)
axes[0].set_ylabel("h")
plt.show()
""", ["hide-input"], "Two panels of paths from time 0 to time 1. Left: straight lines from points between −2 and 2 to two bundles at plus and minus 1.5, which cross each other. Right: curved paths that never cross; the upper half goes to the upper bundle, the lower half to the lower one.")
md("c011", r"""
The ends of the paths on the right are distributed as the codes, as the line of numbers says. They got there by other ways: everything that starts above zero ends in the upper bundle. A field is a map, and this one is increasing, as every continuous and invertible map of the line must be. (It is the map of exercise 4.3.)

## 8.3 A field whose divergence is cheap

For the density we need the divergence, the trace of a Jacobian matrix. In $D$ dimensions autograd wants $D$ passes for it. Larger models estimate it by random projections, with noise. A small network can do better. With two hidden layers,

$$
v = W_3\, s\bigl(W_2\, s(W_1 h + \dots) + b_2\bigr) + b_3,
\qquad
\frac{\partial v}{\partial h} = W_3 \operatorname{diag} s'(b)\; W_2 \operatorname{diag} s'(a)\; W_1 ,
$$

where $a$ and $b$ are what enters the two activations. (The time enters $a$ alone.) Under a trace matrices may be moved round in a circle. So

$$
\operatorname{div} v = \sum_{j,k} s'(b)_j\, M_{jk}\, s'(a)_k, \qquad
M = W_2 \circ (W_1 W_3)^{\mathsf T} ,
\tag{8.3}
$$ (eq-divergence)

with $\circ$ for the product entry by entry. The matrix $M$ is the same for all points. So the *exact* divergence costs one more product of matrices, whatever $D$ is. Here is the whole field.
""")
code("c012", """
class TinyField(nn.Module):
    def __init__(self, features, width=64):
        super().__init__()
        self.first = nn.Linear(features, width)
        self.clock = nn.Linear(5, width, bias=False)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, features)

    def forward(self, h, t):  # the velocity (N, D) and its divergence (N,)
        turn = math.pi * t
        hands = [t, turn.sin(), turn.cos(), (2 * turn).sin(), (2 * turn).cos()]
        a = self.first(h) + self.clock(torch.stack(hands, -1))
        b = self.second(nn.functional.silu(a))
        mixed = self.second.weight * (self.first.weight @ self.last.weight).T
        divergence = (slope(b) * (slope(a) @ mixed.T)).sum(-1)
        return self.last(nn.functional.silu(b)), divergence


def slope(a):  # of SiLU, a · sigmoid(a)
    gate = a.sigmoid()
    return gate * (1 + a * (1 - gate))


def tiny_log_prob(field, z, steps=16):
    \"\"\"Equation (8.1), backwards from codes to noise by Runge–Kutta: (N,).\"\"\"
    h, total, step = z, 0.0, -1 / steps
    for t in torch.linspace(1, 0, steps + 1, dtype=z.dtype)[:-1]:
        v1, d1 = field(h, t)
        v2, d2 = field(h + step / 2 * v1, t + step / 2)
        v3, d3 = field(h + step / 2 * v2, t + step / 2)
        v4, d4 = field(h + step * v3, t + step)
        h = h + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        total = total + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return Normal(0, 1).log_prob(h).sum(-1) + total
""")
md("c013", r"""
The log-determinant is added here, because the steps go backwards and are negative: `total` is minus the integral of (8.1). Is the divergence right, and is this the prior of the package?
""")
code("c014", """
torch.manual_seed(0)
tiny = TinyField(5).double()
h, t = torch.randn(4, 5).double(), torch.rand(4).double()
_, divergence = tiny(h, t)
slow = [
    torch.func.jacrev(lambda h: tiny(h, t[n])[0])(h[n]).trace() for n in range(4)
]
print("divergence = trace:", torch.allclose(divergence, torch.stack(slow)))

prior = FlowMatchingPrior(5).double()
ours, theirs = tiny.state_dict(), prior.velocity.state_dict()
theirs |= {name.replace("clock", "time"): value for name, value in ours.items()}
prior.velocity.load_state_dict(theirs)
with torch.no_grad():
    same = torch.allclose(tiny_log_prob(tiny, h), prior().log_prob(h))
print("tiny_log_prob = package:", same)
""", ["exact"])
md("c015", r"""
## 8.4 On the ring

The ring of eight Gaussians tore the affine flows of [section 4.4](04_flow_priors.ipynb). We fit a field to its points by (8.2), with no VAE around it. The loss is three lines.
""")
code("c016", """
def matching_loss(velocity, codes):
    u = torch.randn_like(codes)
    t = torch.rand(len(codes), device=codes.device)
    halfway = torch.lerp(u, codes, t[:, None])
    return (velocity(halfway, t) - (codes - u)).square().sum(-1).mean()


def match(prior, codes, steps, lr=5e-3):
    optimizer = torch.optim.Adam(prior.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, 2 - 2 * step / steps)
    )
    for _ in range(steps):
        rows = torch.randint(len(codes), (256,), device=device)
        loss = matching_loss(prior.velocity, codes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


torch.manual_seed(0)
on_ring = FlowMatchingPrior(2).to(device)
begin = time.process_time()
match(on_ring, ring.train, steps=3000)
print("faster than one minute:", time.process_time() - begin < 60)
with torch.no_grad():
    value = on_ring().log_prob(ring.test).mean()
expect(value, -1.35, within=0.2, label="log density of test points", unit="nats")
""")
code("c017", """
frames = {}
with torch.no_grad():
    torch.manual_seed(1)
    h = torch.randn(1500, 2, device=device)
    names = torch.linspace(0, 1, 11)
    for number in range(11):
        frames[f"t = {names[number]:.1f}"] = h.cpu()
        for part in range(4 * (number < 10)):
            now = names[number] + 0.025 * part
            middle = h + 0.0125 * on_ring.velocity(h, now)
            h = h + 0.025 * on_ring.velocity(middle, now + 0.0125)


def draw(points):
    figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
    axis.plot(*points.T, ".", markersize=2, color=plots.COLOURS[0])
    axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    axis.set(xlabel="$h_1$", ylabel="$h_2$")
    return figure


frame_slider({name: draw(points) for name, points in frames.items()}, start="t = 1.0")
""")
md("c018", r"""
Move the slider. The cloud is pulled apart into eight, and for a long time nothing seems to happen: until halfway the mean velocity points to the middle of all codes that a place may lead to. Only near the end does it know which.

*How exact is the density?* It is the solver's. Compare it with 256 steps, and count mass on a grid.
""")
code("c019", """
def log_prob_with(steps, z):
    prior = FlowMatchingPrior(2, steps=steps).to(device)
    prior.load_state_dict(on_ring.state_dict())
    with torch.no_grad():
        return prior().log_prob(z)


fine = log_prob_with(256, ring.test)
for steps, band in ((4, 0.5), (8, 0.1), (16, 0.01), (32, 0.002)):
    error = (log_prob_with(steps, ring.test) - fine).abs().mean()
    expect(error, 0, within=band, label=f"{steps} steps, mean error", unit="nats")
line = torch.linspace(-4, 4, 401, device=device)
mass = log_prob_with(16, torch.cartesian_prod(line, line)).exp().sum() * 0.02**2
expect(mass, 1, within=0.01, label="mass on the grid")
""")
md("c020", r"""
## 8.5 Behind a VAE

Now the codes are those of a VAE. In its simplest form latent flow matching has two stages: train a VAE, hold its encoder and decoder, and fit the prior to draws from $q(z \mid x)$ of the training pictures. The class is the package's, and it is a `Flow` like any other: the bound, the NLL and refinement work with it unchanged.
""")
code("c021", """
torch.manual_seed(0)
first = build("gaussian", digits).to(device)
history = fit(first, digits, seed=0)
torch.manual_seed(0)
vae = build("two-stage-flow-matching-prior", digits, first=first)
history = fit(vae, digits, seed=0)

before = evaluate(first, digits.test, num_samples=500, seed=0)
after = evaluate(vae, digits.test, num_samples=500, seed=0)
gained = before.nll - after.nll
expect(gained.mean(), 0.9, within=0.4, label="gained in NLL", unit="nats")
""")
md("c022", r"""
There is one difference to the flow of [section 4.6](04_flow_priors.ipynb), which was fitted afterwards too: how it was trained. That one climbed the density of the codes, this one has never asked for a density. Its loss is an error of regression, and only now that it is trained do we ask how probable the test pictures are.

## 8.6 Digits, five seeds
""")
md("c023", r"""
One seed shows how it works. A claim takes five, paired by seed and by test picture, as in [section 4.7](04_flow_priors.ipynb). The table has the flow-matching prior in both ways, fitted afterwards by regression, and trained together with the VAE by its exact density. Beside it stand the priors of the earlier chapters, and the control: one Gaussian whose mean and scales are learned.
""")
code("c024", """
every = records.read_records(records.book_results(), "digits")
runs = records.group(run for run in every if run["beta"] == 1)
names = {
    "gaussian": "N(0, I)",
    "mixture-k1": "one free Gaussian, the control",
    "two-stage-flow-prior": "coupling flow, afterwards",
    "two-stage-flow-matching-prior": "flow matching, afterwards",
    "flow-prior": "coupling flow, jointly",
    "flow-matching-prior": "continuous flow, jointly",
    "vampprior": "VampPrior, K = 100",
}


def row(name, label):
    group = runs[f"digits-{name}"]
    columns = [
        records.interval([run["nll"]["mean"] for run in group]),
        records.interval([sum(run["kl"]) for run in group]),
        records.interval([run["seconds"] for run in group]),
    ]
    return f"| {label} | " + " | ".join(map(str, columns)) + " |"


head = "| prior | NLL, S = 5000 | KL | seconds of training |"
rows = [row(name, label) for name, label in names.items()]
Markdown("\\n".join([head, "| --- | --- | --- | --- |", *rows]))
""", ["exact", "hide-input"])
code("c025", """
differences = {
    "N(0, I) → matching afterwards": ("gaussian", "two-stage-flow-matching-prior"),
    "coupling afterwards → matching afterwards": (
        "two-stage-flow-prior", "two-stage-flow-matching-prior"
    ),
    "free Gaussian → continuous flow": ("mixture-k1", "flow-matching-prior"),
    "matching afterwards → continuous flow": (
        "two-stage-flow-matching-prior", "flow-matching-prior"
    ),
    "coupling flow → continuous flow": ("flow-prior", "flow-matching-prior"),
    "VampPrior → continuous flow": ("vampprior", "flow-matching-prior"),
}
""", ["exact", "hide-input"])
md("c030", r"""
## 8.7 How many steps does a sample need?

(Energy distance of samples to test codes against the number of steps, on five VAEs; straight paths would need one.)

## 8.8 Why in latent space, and what the VAE has to give up

(Sizes: 784 pixels against 40 latents. Costs. The weight of the KL term: two-stage priors behind VAEs of β = 0.1, 0.3, 1 from records; NLL and samples. A low β leaves codes that N(0, I) fits badly: the later prior repairs it.)

## 8.9 A wish at every step

(Reward of chapter 6 added to the velocity: guidance; recall by class falls. The gradient of log p(y | z_t) in every step is what is called classifier guidance.)

## Where flow matching fails

- **It does not know the bound.** Its loss is an error of regression; a lower one need not be a better density.
- **A density costs dozens of calls.**
- **It comes too late.** Fitted afterwards it repairs the gap of the prior and nothing else.
""")

cells = []
for kind, cid, text, meta in CELLS:
    cell = {"cell_type": kind, "id": cid, "metadata": meta, "source": text.splitlines(True)}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    cells.append(cell)
notebook = {
    "cells": cells,
    "metadata": {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}
Path(__file__).with_name("08_latent_diffusion.ipynb").write_text(
    json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
)
