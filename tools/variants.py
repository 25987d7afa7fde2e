"""Questions and exercises that are on no page, for a seed that the lecturer keeps.

Each template draws its numbers, puts a question and lets the package, or torch, answer it. So two
seeds give two tests of the same kind. The seed of one template does not depend on the others.
"""

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import torch
from torch import tensor
from torch.distributions import (
    AffineTransform,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)

from flowvae_tutorial import Mixture, StandardNormal, mean_and_standard_error, refine
from flowvae_tutorial.experiments.tables import interval


class Variant(NamedTuple):
    title: str
    minutes: int
    question: str
    answer: str


Template = Callable[[Random], Variant]


def one_of(random: Random, *values: float) -> float:
    return random.choice(values)


def four_shapes(random: Random) -> Variant:
    D, X, N, S = (random.choice(v) for v in ((4, 8, 12), (49, 64, 100), (30, 50, 80), (3, 5, 7)))
    posterior = Independent(Normal(torch.zeros(N, D), 1.0), 1)
    likelihood = Independent(Normal(torch.zeros(S, N, X), 1.0), 1)
    z = posterior.rsample((S,))
    log_p, log_q = StandardNormal(D)().log_prob(z), posterior.log_prob(z)
    log_x = likelihood.log_prob(torch.zeros(N, X))
    loose = tuple(Normal(torch.zeros(N, D), 1.0).log_prob(z).shape)
    return Variant(
        "shapes",
        4,
        f"A VAE has {D} latents and {X} pixels. It gets {N} pictures, and {S} samples are drawn "
        f"for "
        r"each. Give the shapes of $z$, $\log q(z \mid x)$, $\log p(z)$ and $\log p(x \mid z)$. "
        r"Which "
        r"shape has $\log q(z \mid x)$ if `Independent` is forgotten?",
        f"{tuple(z.shape)}, {tuple(log_q.shape)}, {tuple(log_p.shape)}, {tuple(log_x.shape)}. "
        f"Without `Independent` the event is not summed: {loose}.",
    )


def grey_levels(random: Random) -> Variant:
    levels, side = random.choice((16, 32, 64, 256)), random.choice((8, 14, 28))
    pixels = side**2
    nats = round(pixels * math.log(levels) * random.uniform(0.3, 0.8))
    on_levels = nats - pixels * math.log(levels)
    bits = -on_levels / (pixels * math.log(2))
    return Variant(
        "bits per pixel",
        6,
        f"Pictures of {side} by {side} pixels have {levels} levels of grey, made continuous by "
        f"noise "
        f"and scaled to numbers between 0 and 1. A model reports a log-likelihood of {nats:+d} "
        f"nats "
        "for such a picture. How many bits per pixel is that for the levels?",
        f"On the scale of levels it is {nats} − {pixels} log {levels} = {on_levels:.1f} nats. "
        f"Divided "
        f"by −{pixels} log 2 that is {bits:.2f} bits per pixel.",
    )


def kl_by_hand(random: Random) -> Variant:
    mean = [one_of(random, -2, -1, -0.5, 0.5, 1, 2) for _ in range(2)]
    scale = [one_of(random, 0.1, 0.2, 0.5, 1, 2) for _ in range(2)]
    q = Independent(Normal(tensor(mean), tensor(scale)), 1)
    terms = kl_divergence(q.base_dist, Normal(torch.zeros(2), 1.0))
    return Variant(
        "a KL term",
        6,
        rf"The encoder gives $\mu = ({mean[0]:g}, {mean[1]:g})$ and $\sigma = ({scale[0]:g}, "
        rf"{scale[1]:g})$ for a picture. Compute the KL term to $\mathcal N(0, I)$, unit by "
        rf"unit. Which "
        "unit costs more?",
        f"By (1.9) the units cost {terms[0]:.3f} and {terms[1]:.3f} nats, together "
        f"{terms.sum():.3f}. "
        f"The {'first' if terms[0] > terms[1] else 'second'} costs more.",
    )


def four_weights(random: Random) -> Variant:
    top = random.randint(-90, -60)
    log_w = [float(top - random.randint(0, 6)) for _ in range(3)] + [float(top)]
    elbo = tensor(log_w).mean()
    log_p = tensor(log_w).double().logsumexp(0) - math.log(4)
    shown = ", ".join(f"{each:g}" for each in log_w)
    return Variant(
        "from weights to an NLL",
        6,
        f"Four samples of an encoder have the log-weights {shown}. Compute the estimate of the "
        f"ELBO, "
        "and that of the NLL with S = 4. Why do they differ, and which way does each err on "
        "average?",
        f"The ELBO is {elbo:.2f}. The NLL is {-log_p:.2f}, minus the logarithm of the mean "
        f"weight. By "
        r"Jensen's inequality the first is lower than $\log p(x)$ on average, and so is minus the "
        "second, by less.",
    )


def shared_codes(random: Random) -> Variant:
    groups, size = random.choice((4, 8, 10, 20)), random.choice((2, 5, 10))
    N = groups * size
    # One bump for each group, far from the others: q(z | x_n) against their mean.
    log_q = torch.where(torch.arange(N)[:, None] // size == torch.arange(N) // size, 0.0, -1e9)
    information = (log_q.diagonal() - log_q.logsumexp(1) + math.log(N)).mean()
    kl = round(float(information) + random.uniform(1, 6), 1)
    return Variant(
        "what a prior could save",
        6,
        f"An encoder gives {N} training pictures {groups} different codes, {size} pictures each, "
        f"and "
        f"the codes do not overlap. The mean KL term is {kl} nats. Compute the mutual information "
        "between picture and code, and the marginal KL. What would the optimal prior save on "
        "these "
        "pictures?",
        f"The code tells the group: log {groups} = {information:.2f} nats, below log {N}. The "
        f"marginal "
        f"KL is the rest, {kl - float(information):.2f} nats, and by (2.3) all of it could be "
        f"saved, on "
        "these pictures.",
    )


def two_pseudo_inputs(random: Random) -> Variant:
    means = sorted(random.sample([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], 2))
    scales = [one_of(random, 0.5, 1, 2) for _ in range(2)]
    z = one_of(random, -0.5, 0, 0.5)
    components = Independent(Normal(tensor(means)[:, None], tensor(scales)[:, None]), 1)
    log_p = Mixture(components, torch.zeros(2)).log_prob(tensor([z]))
    each = components.log_prob(tensor([z]))
    return Variant(
        "the density of a VampPrior",
        6,
        "A VampPrior with one latent has two pseudo-inputs of equal weight. The encoder gives them "
        f"the means {means[0]:g} and {means[1]:g} and the scales {scales[0]:g} and {scales[1]:g}. "
        rf"Compute $\log p(z)$ at $z = {z:g}$.",
        f"The two components have the log-densities {each[0]:.3f} and {each[1]:.3f}. The "
        f"logarithm of "
        f"their mean is {log_p.item():.3f}.",
    )


def two_levels(random: Random) -> Variant:
    a, b = one_of(random, 0.5, 1, 1.5, 2), one_of(random, -1, -0.5, 0.5, 1)
    chain = tensor([[1.0, 1.0], [1.0, 2.0]])
    q = MultivariateNormal(tensor([a, a + b]), chain)
    top = kl_divergence(Normal(a, 1.0), Normal(tensor(0.0), 1.0))
    below = [
        kl_divergence(q, MultivariateNormal(torch.zeros(2), prior)) - top
        for prior in (chain, torch.eye(2))
    ]
    return Variant(
        "two levels by hand",
        8,
        rf"All is one-dimensional: $q(z_2 \mid x) = \mathcal N({a:g}, 1)$, "
        rf"$q(z_1 \mid x, z_2) = \mathcal N(z_2 {b:+g}, 1)$ and $p(z_2) = \mathcal N(0, 1)$. "
        rf"Compute "
        r"both terms of (3.6) for (a) $p(z_1 \mid z_2) = \mathcal N(z_2, 1)$ and (b) "
        r"$p(z_1 \mid z_2) = \mathcal N(0, 1)$.",
        f"The top level costs {top:.3f} nats in both cases. The lower one costs (a) "
        f"{below[0]:.3f}, "
        f"whatever $z_2$ is, and (b) {below[1]:.3f}: there the variance of $z_2$ counts, too.",
    )


def precisions(random: Random) -> Variant:
    w, s, x = one_of(random, 1, 2, 3), one_of(random, 0.5, 1, 2), one_of(random, -2, 1, 4)
    joint = MultivariateNormal(torch.zeros(2), tensor([[1.0, w], [w, w**2 + s**2]]))  # of z and x
    inverse = joint.precision_matrix
    variance, mean = 1 / inverse[0, 0], -inverse[0, 1] / inverse[0, 0] * x
    return Variant(
        "adding precisions",
        6,
        rf"$z \sim \mathcal N(0, 1)$ and $x \mid z \sim \mathcal N({w:g} z, {s:g}^2)$. Find the "
        rf"mean and "
        rf"the variance of the posterior at $x = {x:g}$ by adding precisions.",
        f"The precisions are 1 and {w:g}² / {s:g}² and add up to {1 / variance:.3f}, so the "
        f"variance "
        f"is {variance:.3f}. The mean is {mean:.3f}.",
    )


def affine_map(random: Random) -> Variant:
    shift, scale = one_of(random, -2, -1, 1, 2), one_of(random, -3, -2, 0.5, 2, 4)
    z = shift + scale * one_of(random, -1, 0.5, 1, 2)
    maps = [AffineTransform(shift, scale)]
    log_p = TransformedDistribution(Normal(tensor(0.0), 1.0), maps).log_prob(tensor(z))
    return Variant(
        "a density after a map",
        4,
        rf"$u \sim \mathcal N(0, 1)$ and $z = {scale:g} u {shift:+g}$. Compute $\log p(z)$ at "
        rf"$z = {z:g}$ by (4.1).",
        f"$u$ = {(z - shift) / scale:g}, and log {abs(scale):g} is subtracted: {log_p:.3f}. Only "
        f"the "
        "absolute value of the slope counts.",
    )


def coupling(random: Random) -> Variant:
    c, d = one_of(random, -1, 1, 2), one_of(random, -0.5, 0.5, 1)
    a, b = one_of(random, -1, 1, 2), one_of(random, -2, 1, 3)

    def forward(u: torch.Tensor) -> torch.Tensor:
        return torch.stack([u[0], c * u[0] + (d * u[0]).exp() * u[1]])

    u = tensor([a, b], dtype=torch.float64)
    z = forward(u)
    jacobian = torch.autograd.functional.jacobian(forward, u)
    log_p = StandardNormal(2)().log_prob(u) - jacobian.det().abs().log()
    return Variant(
        "a coupling by hand",
        8,
        rf"A coupling maps $[a, b]$ to $[a,\, t + e^s b]$ with $t = {c:g} a$ and $s = {d:g} a$. "
        rf"Compute "
        rf"$z$ for $u = ({a:g}, {b:g})$, the log-determinant, $\log p(z)$ with $u \sim \mathcal "
        rf"N(0, I)$, "
        "and go back.",
        f"$z$ = ({z[0]:.3f}, {z[1]:.3f}). The log-determinant is s = {jacobian.det().log():.3f}, "
        f"and "
        rf"$\log p(z)$ = {log_p:.3f}. Back: $b = e^{{-s}}(z_b - t) = {b:g}$ with the same t and s.",
    )


def split_gap(random: Random) -> Variant:
    gap = round(random.uniform(1.5, 4), 1)
    private = round(gap * one_of(random, 0.1, 0.2, 0.8, 0.9), 1)
    network = gap - private
    remedy = "a flow posterior" if private > network else "a better encoder, or more pictures"
    return Variant(
        "which remedy?",
        5,
        f"A VAE has an inference gap of {gap} nats on test pictures. With the decoder held, a "
        f"Gaussian fitted to each picture leaves a gap of {private}. How large are the two parts, "
        "and what would you try?",
        f"The family misses {private} nats and the network {network:.1f}. Most is in the "
        f"{'family' if private > network else 'network'}, so {remedy}.",
    )


def folded_map(random: Random) -> Variant:
    c, u0 = one_of(random, 2, 3, 4), one_of(random, 0.5, 1, 1.5, 2)
    u = tensor(u0, dtype=torch.float64, requires_grad=True)
    s = -c * u.tanh()
    slope = torch.autograd.grad(u * s.exp(), u)[0]
    folds = (
        "The map folds there: the slope is negative."
        if slope < 0
        else "The map does not fold there, but the program's slope is wrong."
    )
    return Variant(
        "a flow that is told its own noise",
        7,
        rf"A layer has $z = u\, e^{{s}}$ with $s = -{c:g} \tanh u$. A program takes $e^s$ for "
        rf"its slope. "
        rf"Compute this and the true slope at $u = {u0:g}$. Does the map fold there?",
        f"The program reports {s.exp():.3f}. The product rule adds $u\\, s'(u)$ inside the "
        f"bracket, and "
        f"the slope is {slope:.3f}. {folds}",
    )


def uphill(random: Random) -> Variant:
    start, lr = one_of(random, -4, 2, 3, 5), one_of(random, 0.1, 0.2, 0.25)
    anchor, steps = one_of(random, 0, 0.25, 0.5, 1), random.choice((2, 3, 4))
    z = refine(
        tensor([[start]], dtype=torch.float64),
        StandardNormal(1)().log_prob,
        steps=steps,
        lr=lr,
        anchor=anchor,
    )
    rest = 2 * anchor / (1 + 2 * anchor) * start
    return Variant(
        "some steps uphill",
        6,
        r"The prior is $\mathcal N(0, 1)$ and there is no reward. A latent starts at "
        rf"{start:g} and moves by (6.3), with the step $\eta = {lr:g}$ and the weight $\kappa = "
        rf"{anchor:g}$ of the anchor. Where is it after {steps} steps, and where does it "
        "come to rest?",
        f"By (6.3) after {steps} steps it is at {z.item():.3f}. It rests at {rest:.3f}.",
    )


def best_of_n(random: Random) -> Variant:
    # So that it is neither sure nor hopeless.
    N, percent = random.choice(((10, 90), (20, 90), (20, 95), (50, 95), (50, 99), (100, 99)))
    draws = 1 - (percent / 100) ** N
    least = math.ceil(math.log(0.5) / math.log(percent / 100))
    return Variant(
        "the best of N",
        6,
        f"How probable is it that the best of {N} draws lies among the upper {100 - percent} % "
        f"of the "
        "rewards? How many draws make it as likely as not?",
        f"All N miss with probability {percent / 100:g}^{N}, so it is {draws:.3f}. Half is "
        f"reached with "
        f"{least} draws.",
    )


def giant_step(random: Random) -> Variant:
    first, second = sorted(random.sample([-4, -3, -2, -1, 0, 1, 2, 3, 4], 2), reverse=True)
    error = one_of(random, 0.1, 0.25, 0.5)
    upper = math.exp(second)
    kl = 0.5 * (math.exp(first) - upper) * error
    noise = upper * error
    again = 0.5 * math.expm1(first - second) * noise
    return Variant(
        "one step of a diffusion",
        6,
        rf"Two levels have $\lambda_1 = {first}$ and $\lambda_2 = {second}$. The guess at the "
        rf"upper one "
        rf"is wrong by $\lVert x - \hat x \rVert^2 = {error:g}$. Compute the denoising term by "
        rf"(7.8), "
        "the squared error of the noise, and the term once more by (7.9).",
        f"{kl:.3f} nats. The noise is wrong by SNR(2) times the error, {noise:.4f}, and (7.9) "
        f"gives "
        f"{again:.3f} again.",
    )


def gap_of_two(random: Random) -> Variant:
    first = random.choice((1, 2, 3))
    second = -first
    r = (math.exp(first) - math.exp(second)) / (1 + math.exp(second))
    gap = 0.5 * (r - math.log1p(r))
    return Variant(
        "the gap of two levels",
        8,
        rf"The data are $\mathcal N(0, 1)$, the denoiser is the best one, and two levels have "
        rf"$\lambda = {first}$ and ${second}$. Compute the gap by (7.11).",
        rf"$v = 1$ and $r_2$ = {r:.3f}, so the gap is ½ ($r_2$ − log(1 + $r_2$)) = {gap:.3f} "
        rf"nats. The "
        "term of the top level is zero.",
    )


def linear_field(random: Random) -> Variant:
    a, b = one_of(random, 0.5, 1, 2), one_of(random, -2, -1, -0.5, 0.5)
    u = tensor([one_of(random, -1, 1, 2), one_of(random, -1, 1)], dtype=torch.float64)
    matrix = torch.diag(tensor([a, b], dtype=torch.float64)).matrix_exp()
    z = matrix @ u
    log_p = StandardNormal(2)().log_prob(u) - matrix.logdet()
    return Variant(
        "a field that stretches",
        7,
        rf"$v(h, t) = ({a:g} h_1, {b:g} h_2)$ for all $t$. Where does $u = ({u[0]:g}, {u[1]:g})$ "
        rf"arrive at "
        rf"$t = 1$, and what is $\log p(z)$ there if $u$ was drawn from $\mathcal N(0, I)$?",
        f"At ({z[0]:.3f}, {z[1]:.3f}). The divergence is {a + b:g} all the way, and it is "
        f"subtracted: "
        f"{log_p:.3f}.",
    )


def plain_steps(random: Random) -> Variant:
    mean, scale, u = one_of(random, 1, 2, 3), one_of(random, 0.25, 0.5, 2), one_of(random, -1, 1, 2)

    def end(steps: int) -> float:
        h = u
        for k in range(steps):
            t = k / steps
            slope = (t * scale**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * scale**2)
            h += (mean + slope * (h - t * mean)) / steps
        return h

    return Variant(
        "one step, two steps, all of them",
        9,
        rf"The codes are $\mathcal N({mean:g}, {scale:g}^2)$, and the field is that of exercise "
        rf"8.3. Where "
        rf"do one plain step, two plain steps and the exact path take $u = {u:g}$?",
        f"One step leads to the mean, {end(1):g}. Two steps lead to {end(2):.3f}, and the path to "
        f"{mean + scale * u:g}, as {end(1000):.3f} after 1,000 steps says, too.",
    )


def five_seeds(random: Random) -> Variant:
    hard = [random.gauss(85, 1) for _ in range(5)]
    gain = one_of(random, 0.3, 0.5, 1)
    first = [round(each + random.gauss(gain, 0.2), 1) for each in hard]
    second = [round(each + random.gauss(0, 0.2), 1) for each in hard]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    alone = math.hypot(*(mean_and_standard_error(tensor(each))[1] for each in (first, second)))
    return Variant(
        "what pairing buys",
        10,
        f"Made-up NLLs of five seeds. A: {', '.join(map(str, first))}. B, with the same seeds: "
        f"{', '.join(map(str, second))}. Compute the 95 % interval of the mean difference, "
        f"paired by "
        "seed (Student's t is 2.78). Compare its standard error with that of two groups that have "
        "nothing in common.",
        f"Paired: {interval(differences)}. The standard error is "
        f"{mean_and_standard_error(tensor(differences))[1]:.3f} in pairs and {alone:.3f} without.",
    )


def weights_that_count(random: Random) -> Variant:
    weights = tensor([float(random.choice((1, 1, 1, 2, 5, 20, 50))) for _ in range(8)])
    effective = weights.sum() ** 2 / (weights**2).sum()
    shown = ", ".join(f"{each:g}" for each in weights.tolist())
    left = weights.sort().values[:-1]
    without = left.sum() ** 2 / (left**2).sum()
    return Variant(
        "how many samples count?",
        5,
        f"Eight importance weights are, up to a factor, {shown}. Compute the effective sample "
        f"size "
        "(9.1). What does it become if all are multiplied by ten, and if the largest is lost?",
        f"{effective:.2f} of 8. A factor changes nothing. Without the largest it is "
        f"{without:.2f} of 7.",
    )


# Two a chapter.
TEMPLATES: list[tuple[Template, Template]] = [
    (four_shapes, grey_levels),
    (kl_by_hand, four_weights),
    (shared_codes, two_pseudo_inputs),
    (two_levels, precisions),
    (affine_map, coupling),
    (split_gap, folded_map),
    (uphill, best_of_n),
    (giant_step, gap_of_two),
    (linear_field, plain_steps),
    (five_seeds, weights_that_count),
]


def variants(seed: int) -> dict[str, Variant]:
    """By number, V0.1 and on."""
    return {
        f"V{chapter}.{place}": template(Random(f"{seed} {template.__name__}"))
        for chapter, pair in enumerate(TEMPLATES)
        for place, template in enumerate(pair, start=1)
    }


def pages(seed: int) -> dict[str, str]:
    """What to hand out and what to keep."""
    asked, kept = [f"# Questions, seed {seed}"], [f"# Answers, seed {seed}"]
    for number, each in variants(seed).items():
        asked.append(f"## {number}: {each.title}\n\n*{each.minutes} minutes.* {each.question}")
        kept.append(f"## {number}: {each.title}\n\n{each.answer}")
    return {
        f"questions-{seed}.md": "\n\n".join(asked) + "\n",
        f"answers-{seed}.md": "\n\n".join(kept) + "\n",
    }
