"""Runs what the book tells of and does not run on its pages: python tools/solutions.py [NAME …]

The solutions of the open exercises report what became of them, section 1.10 draws from wider
posteriors, section 3.10 two flat models with as many weights as a hierarchy, sections 5.5 and 5.6
two more seeds, section 5.12 cures of the encoder, and section 6.8 a race with five models. Each
is measured here with the code of its chapter and of its solution, and writes
book/results/solutions/NAME.json, with NAME as in 1.5 or 6.8-seeds; one that is there is not run
again. The tables of the solutions are what `table` makes of the records. All of it takes half an
hour on one CPU thread.
"""

import contextlib
import copy
import io
import math
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import flowvae_tutorial
from flowvae_tutorial import (
    VAE,
    CouplingFlow,
    Flow,
    FlowPosterior,
    GaussianLikelihood,
    GaussianPosterior,
    active_units,
    build,
    elbo_by_level,
    energy_distance,
    evaluate,
    fit,
    mean_and_standard_error,
    prior_gap,
    refine,
    rsample_and_log_prob,
)
from flowvae_tutorial.bounds import dreg_loss, iwae_bound, semi_amortised
from flowvae_tutorial.data import load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import (
    Interval,
    book_results,
    interval,
    make_record,
    read_records,
)
from flowvae_tutorial.history import History
from flowvae_tutorial.models import Sizes, resolve
from ladder import START, settle, trained
from latent import euler

BOOK = Path(__file__).parents[1] / "book"
Run = dict[str, Any]
Names = dict[str, Any]
Reward = Callable[[Tensor], Tensor]
_FORM = files.form(
    files.CODE | {"runs": {"type": "array", "items": files.OBJECT, "minItems": 1}},
    # Later than the first records.
    files.DAY | {"solution": files.TEXT},
)
KIND = files.Kind(
    "solutions", "python tools/solutions.py", _FORM, lambda record: record.get("solution")
)


def cells(chapter: int) -> dict[str, str]:
    [file] = BOOK.glob(f"{chapter:02}_*.ipynb")
    return {cell.id: cell.source for cell in nbformat.read(file, as_version=4).cells}


def solution(exercise: str) -> str:
    """The text of a folded solution."""
    [found] = [
        source
        for source in cells(int(exercise[0])).values()
        if f"<summary>Solution {exercise}</summary>" in source
    ]
    return found


def play(exercise: str, *names_of_cells: str, seed: int = 0) -> Names:
    """The names that cells of a chapter leave, and after them the code of an exercise's solution.

    What cells would `expect` is kept, by its label, and held against nothing: for another seed
    the expectations of the page do not hold.
    """
    matplotlib.use("Agg")
    source = cells(int(exercise[0]))
    # An exercise may name something of the package that its chapter has not imported.
    names = Names(vars(flowvae_tutorial), __name__="played", measured={})
    for cell in names_of_cells:
        code = source[cell]
        if seed:
            code = code.replace("manual_seed(0)", f"manual_seed({seed})")
            code = code.replace("seed=0", f"seed={seed}")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, f"cell {cell}", "exec"), names)
        names["expect"] = lambda value, *_, label, **__: names["measured"].update(
            {label: round(float(value), 4)}
        )
    for code in re.findall(r"```python\n(.*?)```", solution(exercise), re.DOTALL):
        exec(compile(code, f"solution {exercise}", "exec"), names)
    return names


def rounded(**figures: Any) -> Run:
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in figures.items()
    }


# 1.5: how many units?


def units() -> list[Run]:
    data, runs = load("digits"), []
    for seed in range(5):
        for latent in (4, 8, 32):
            torch.manual_seed(seed)
            sizes = Sizes(latent=latent, hidden=(128, 128), components=1)
            vae = build("gaussian", data, sizes)
            fit(vae, data, seed=seed)
            torch.manual_seed(0)
            nll, _ = mean_and_standard_error(evaluate(vae, data.test, num_samples=5000).nll)
            torch.manual_seed(0)
            gap = prior_gap(vae, data.batch(data.train), data.test).mean().item()
            active = int(active_units(vae, data.test).sum())
            runs.append(rounded(latent=latent, seed=seed, nll=nll, gap=gap, active_units=active))
    return runs


def units_table(runs: list[Run]) -> list[str]:
    def of(latent: int, figure: str) -> list[Any]:
        return [run[figure] for run in runs if run["latent"] == latent]

    runs = [
        *runs,
        *(
            {"latent": 16, "nll": run["nll"]["mean"], "gap": run["prior_gap"],
             "active_units": run["active_units"]}
            for run in read_records(book_results(), "digits")
            if (run["model"], run["beta"]) == ("gaussian", 1)
        ),
    ]  # fmt: skip
    lines = []
    for latent in (4, 8, 16, 32):
        nll, least, most = of(latent, "nll"), *extremes(of(latent, "active_units"))
        active = f"{least} in every run" if least == most else between(least, most)
        less = interval([a - b for a, b in zip(nll, of(16, "nll"), strict=True)])
        paired = "" if latent == 16 else f"{less} "
        gap = interval(of(latent, "gap"))
        lines.append(f"| {latent} | {active} | {interval(nll)} | {paired}| {gap} |")
    return lines


def extremes(values: Sequence[Any]) -> tuple[Any, Any]:
    return min(values), max(values)


def between(least: int, most: int) -> str:
    return f"{least} or {most}" if most == least + 1 else f"{least} to {most}"


# 1.10: how much of an NLL is the looseness of its bound?

WIDTHS = (1, 1.25, 1.5, 2, 2.5)


def wider() -> list[Run]:
    """The width is chosen on validation pictures; the weights are those of the records."""
    nll = play("1.5", "c003", "w000")["nll_from_wider"]
    data, runs = load("digits"), []
    for model, beta in (("gaussian", 0.3), ("gaussian", 0.5), ("gaussian", 1.0), ("mixture", 1.0)):
        for seed in range(5):
            vae, _ = trained(model, data, beta, START, seed)
            torch.manual_seed(0)
            tried = {width: nll(vae, data.validation, width, 1000) for width in WIDTHS}
            best = min(tried, key=lambda width: tried[width])
            own = nll(vae, data.test, 1, 5000)
            least = own if best == 1 else nll(vae, data.test, best, 5000)
            figures = rounded(own=own, width=best, least=least)
            runs.append({"model": model, "beta": beta, "seed": seed} | figures)
    return runs


# 2.5: should the weights be learned?


def weights() -> list[Run]:
    names, runs = play("2.5", "c003"), []
    data = names["data"]
    for seed in range(3):
        for kind in ("equal", "learned", "held"):
            torch.manual_seed(seed)
            vae = build("vampprior", data)
            if kind == "learned":
                vae = names["with_learned_weights"](seed)
            if kind == "held":
                vae.prior.raw.requires_grad_(False)
            history = fit(vae, data, seed=seed)
            shares = vae.prior.logits.softmax(0) * len(vae.prior.logits)
            runs.append(
                rounded(
                    kind=kind, seed=seed, elbo=max(history.elbo),
                    alive=int((shares > 0.1).sum()), largest=shares.max().item(),
                )
            )  # fmt: skip
    return runs


def weights_table(runs: list[Run]) -> list[str]:
    names = {
        "equal": "equal weights",
        "learned": "learned weights",
        "held": "equal weights, pseudo-inputs held",
    }
    return [
        f"| {name} | " + " | ".join(f"{r['elbo']:.2f}" for r in runs if r["kind"] == kind) + " |"
        for kind, name in names.items()
    ]


# 3.5: a decoder that sees the lower level only.


def lower_only() -> list[Run]:
    names, runs = play("3.5", "c003"), []
    data = names["data"]
    for model in ("hvae", "hierarchical-vampprior"):
        for seed in range(3):
            torch.manual_seed(seed)
            both = build(model, data)
            likelihood = GaussianLikelihood(names["LowerOnly"](), 64)
            vae = VAE(both.prior, both.posterior, likelihood)
            fit(vae, data, seed=seed)
            torch.manual_seed(0)
            with torch.no_grad():
                reconstruction, kl = elbo_by_level(vae, data.test, 20)
                spread = vae.posterior.top(data.test).mean.var(0)
            top, lower = kl.mean((1, 2)).tolist()
            elbo = reconstruction.mean().item() - top - lower
            active = int((spread > 0.01).sum())
            runs.append(
                rounded(model=model, seed=seed, top=top, lower=lower, active=active, elbo=elbo)
            )
    return runs


def lower_only_table(runs: list[Run]) -> list[str]:
    records = read_records(book_results(), "digits")
    lines = []
    for model, name in (("hvae", r"$\mathcal N(0, I)$"), ("hierarchical-vampprior", "VampPrior")):
        group = [run for run in runs if run["model"] == model]
        theirs = [run["elbo"] for run in records if run["model"] == model][: len(group)]
        columns = (
            (f"{run['top']:.2f}" for run in group),
            (f"{run['lower']:.1f}" for run in group),
            (str(run["active"]) for run in group),
            (f"{run['elbo']:.1f}" for run in group),
            (f"{elbo:.1f}" for elbo in theirs),
        )
        lines.append(f"| {name} | " + " | ".join(map(", ".join, columns)) + " |")
    return lines


# 3.10: flat models with as many weights as the hierarchy `hvae`.

WIDE = 228


def wide() -> list[Run]:
    """As the records are made: the number of epochs by validation, then one look at the test."""
    data, runs = load("digits"), []
    for model in ("gaussian", "mixture-k1"):
        sizes = resolve(model, data)[1]._replace(hidden=(WIDE, WIDE))
        rungs: dict[int, list[tuple[VAE, History]]] = {}
        for epochs in (100, 150, 200):
            rungs[epochs] = []
            for seed in range(5):
                torch.manual_seed(seed)
                vae = build(model, data, sizes)
                history = fit(vae, data, seed=seed, epochs=epochs, patience=epochs)
                rungs[epochs].append((vae, history))
        validation = {
            epochs: statistics.mean(max(history.elbo) for _, history in made)
            for epochs, made in rungs.items()
        }
        chosen = max(validation, key=lambda epochs: validation[epochs])
        for seed, (vae, history) in enumerate(rungs[chosen]):
            record = make_record(
                model, vae, data, sizes, history, seed=seed, beta=1.0, num_samples=5000, commit=""
            )
            kept = "model", "beta", "data", "seed", "epochs", "best_epoch", "parameters", "elbo"
            kept += "reconstruction", "kl", "active_units", "num_samples", "nll"
            known = {str(epochs): round(elbo, 3) for epochs, elbo in validation.items()}
            runs.append({name: record[name] for name in kept} | {"validation": known})
    return runs


# 4.5: a mixture as the base of a flow.


def mixture_base() -> list[Run]:
    names = play("4.5", "c003", "c011", "c015")
    ring, fit_density = names["ring"], names["fit_density"]
    runs = []

    def measure(start: str, couplings: int, seed: int, **budget: Any) -> None:
        torch.manual_seed(seed)
        if start == "gaussian":
            model = CouplingFlow(2, transforms=couplings)
        else:
            model = names["MixtureFlow"](couplings)
        if start == "far apart":
            model.base.loc.data.copy_(names["far_apart"](ring.train, 8))
        value = fit_density(model, lambda z: model().log_prob(z), **budget)
        with torch.no_grad():
            away = torch.cdist(model().sample((20_000,)), names["centres"]).amin(1)
        threads = (away > 0.6).double().mean().item()
        runs.append(
            rounded(
                start=start, couplings=couplings, seed=seed, **budget, log_prob=value,
                threads=threads,
            )
        )  # fmt: skip

    for seed in range(3):
        for couplings in (0, 1, 2, 4):
            for start in ("gaussian", "random", "far apart"):
                if couplings or start != "gaussian":
                    measure(start, couplings, seed)
        measure("random", 0, seed, steps=1200, lr=2e-2)
    truth = names["truth"]
    torch.manual_seed(0)
    away = torch.cdist(truth.sample((1_000_000,)), names["centres"]).amin(1)
    best = truth.log_prob(ring.test).mean().item()
    threads = (away > 0.6).double().mean().item()
    return [*runs, rounded(start="truth", log_prob=best, threads=threads)]


def mixture_base_table(runs: list[Run]) -> list[str]:
    lines = []
    for start, name, counts in (
        ("gaussian", "a single Gaussian", (4,)),
        ("random", "mixture, random start", (0, 1, 2, 4)),
        ("far apart", "mixture, started far apart", (0, 1, 2, 4)),
    ):
        for couplings in counts:
            group = [
                run
                for run in runs
                if run["start"] == start and run["couplings"] == couplings and "steps" not in run
            ]
            values = ", ".join(f"{run['log_prob']:.2f}" for run in group)
            least, most = extremes([run["threads"] for run in group])
            digits = 2 if most > 0.01 else 3
            threads = f"{least:.{digits}f} to {most:.{digits}f}"
            if most < 0.001:
                threads = "below 0.001"
            lines.append(f"| {name} | {couplings} | {values} | {threads} |")
    return lines


# 5.5: should the flow be told σ as well? And figures of sections 5.5 and 5.6 for two more seeds.


class ToldHidden(torch.nn.Module):
    """A flow that is told the last hidden layer of the encoder."""

    def __init__(self, net: torch.nn.Sequential, flow: CouplingFlow) -> None:
        super().__init__()
        self.gaussian, self.flow = GaussianPosterior(net), flow

    def forward(self, x: Tensor) -> Flow:
        hidden: Tensor = self.gaussian.net[:-1](x)
        return Flow(self.gaussian(x), self.flow.transform(hidden))


def told_more() -> list[Run]:
    names = play("5.5", "c003", "c006", "c008", "c012", "c020")
    vae, rings, gap = names["vae"], names["rings"], names["gap"]
    train = rings.train[:200]
    kinds = {
        "mean": (2, FlowPosterior),
        "mean and scale": (4, names["ToldMore"]),
        "hidden": (64, ToldHidden),
    }
    runs = []
    for epochs, told in ((60, kinds), (180, list(kinds)[:2])):
        for kind in told:
            width, posterior_of = kinds[kind]
            for seed in range(3):
                torch.manual_seed(seed)
                flow = CouplingFlow(2, context=width, transforms=4)
                posterior = posterior_of(copy.deepcopy(vae.posterior.net), flow)
                torch.manual_seed(seed)
                frozen = VAE(vae.prior, posterior, vae.likelihood)
                fit(frozen, rings, seed=seed, epochs=epochs, warmup=0, **names["settings"])
                gaps = {
                    f"gap_{part}": gap(vae, posterior(x), x, names["log_evidence"](vae, x))
                    for part, x in (("test", names["some"]), ("train", train))
                }
                means = {part: value.mean().item() for part, value in gaps.items()}
                runs.append(rounded(kind=kind, epochs=epochs, seed=seed, **means))
    return runs


def told_more_table(runs: list[Run]) -> list[str]:
    lines = []
    for kind, name in (
        ("mean", r"$\mu(x)$"),
        ("mean and scale", r"$[\mu(x), \log \sigma(x)]$"),
        ("hidden", "last hidden layer"),
    ):
        columns = [
            ", ".join(
                f"{run['gap_test']:.2f}"
                for run in runs
                if (run["kind"], run["epochs"]) == (kind, epochs)
            )
            for epochs in (60, 180)
        ]
        lines.append(f"| {name} | {columns[0]} | {columns[1] or 'not run'} |")
    return lines


def two_more_seeds() -> list[Run]:
    shown = "c003", "c006", "c008", "c012", "c020", "c022", "c026"
    return [{"seed": seed, **play("5.5", *shown, seed=seed)["measured"]} for seed in (1, 2)]


def two_more_seeds_of_digits() -> list[Run]:
    shown = "c003", "c006", "c008", "c012", "c020", "c022", "c028", "c029", "c030b"
    told = (
        "Gaussian", "best Gaussian for each", "share that the flow closes", "training",
        "generalisation", "share of the ten worst test pictures",
    )  # fmt: skip
    found = {seed: play("5.5", *shown, seed=seed)["measured"] for seed in (1, 2)}
    return [{"seed": seed} | {label: found[seed][label] for label in told} for seed in found]


# 5.12: cures on the encoder's side, under a decoder that stands still.

IMPORTANCE_SAMPLES = 8
ASCENT = (1, 3, 10, 30, 100)


class Tightened(VAE):
    """A VAE that is trained by another bound than the ELBO."""

    def __init__(self, vae: VAE, posterior: torch.nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__(vae.prior, posterior, vae.likelihood)
        self.bound = loss

    def loss(self, x: Tensor, beta: float = 1.0) -> Tensor:
        return self.bound(self, x, IMPORTANCE_SAMPLES)


def plain_gradient(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    return -iwae_bound(vae, x, num_samples).mean()


def cured(seed: int) -> list[Run]:
    data, runs = load("digits"), []
    recipe = {"batch_size": 128, "lr": 4e-3, "decay": 0.5}
    fine = {"half": 6.0, "steps": 201}
    # Functions of the chapter, without what their cells train.
    names: Names = vars(flowvae_tutorial) | {"torch": torch, "math": math, "device": "cpu"}
    names |= {"Independent": Independent, "Normal": Normal}
    source = cells(5)
    for cell in ("c006", "c012", "c022"):
        for code in re.findall(
            r"^(?:@.*\n)?def .*\n(?:(?: .*)?\n)*", source[cell] + "\n", re.MULTILINE
        ):
            exec(compile(code, f"cell {cell}", "exec"), names)
    torch.manual_seed(seed)
    vae = build("gaussian", data, Sizes(2, (128, 128), transforms=4))
    fit(vae, data, seed=seed, epochs=100, **recipe)
    vae.likelihood.requires_grad_(False)
    torch.manual_seed(0)
    seen = data.batch(data.train[:100])
    groups = {"test": data.test[:100], "train": seen}
    log_p = {group: names["log_evidence"](vae, x, **fine) for group, x in groups.items()}

    def add(cure: str, give: Callable[[Tensor], Any]) -> None:
        figures: Run = {}
        for group, x in groups.items():
            q = give(x)
            kl = names["gap"](vae, q, x, log_p[group])
            torch.manual_seed(0)
            with torch.no_grad():
                z, log_q = rsample_and_log_prob(q, (100, IMPORTANCE_SAMPLES))
                log_w = vae.likelihood(z.flatten(0, 1)).log_prob(x)
                log_w = log_w.unflatten(0, (100, -1)) + vae.prior().log_prob(z) - log_q
                bound = (log_w.logsumexp(1) - math.log(IMPORTANCE_SAMPLES)).mean(0)
            tighter = (log_p[group] - bound).mean().item()
            figures |= {f"gap_{group}": kl.mean().item(), f"tighter_{group}": tighter}
            figures |= {f"median_{group}": kl.median().item()}
        runs.append(rounded(cure=cure, seed=seed, **figures))

    add("none", vae.posterior)
    fits: dict[str, torch.nn.Module] = {}
    losses = {"elbo": lambda v, x, k: VAE.loss(v, x), "iwae": plain_gradient, "dreg": dreg_loss}
    for cure, loss in losses.items():
        fits[cure] = copy.deepcopy(vae.posterior)
        torch.manual_seed(seed)
        frozen = Tightened(vae, fits[cure], loss)
        fit(frozen, data, seed=seed, epochs=50, warmup=0, **recipe)
        add(cure, fits[cure])
    mended = VAE(vae.prior, fits["elbo"], vae.likelihood)
    for steps in ASCENT:
        torch.manual_seed(0)
        add(f"ascent {steps}", lambda x, n=steps: semi_amortised(mended, x, n))
    add("private", lambda x: names["best_gaussian"](vae, x, **fine))
    return runs


def cures() -> list[Run]:
    return [run for seed in range(5) for run in cured(seed)]


# 6.5: many rewards.


def five_rewards() -> list[Run]:
    names, runs = play("6.5", "c003", "c021", "c041"), []
    prior = names["prior"]
    torch.manual_seed(5)
    some = prior.sample((300,))[:200]
    for share in (1, 0.5):
        for first in range(100, 150, 10):
            many = names["five_rewards"](share, first)
            for weight in (1, 3, 10, 30):
                for way, reward in ways(many).items():
                    z = refine(some, prior.log_prob, weighed(reward, weight), steps=30, anchor=0)
                    with torch.no_grad():
                        claimed, true = reward(z).mean().item(), names["true_ink"](z).mean().item()
                    kind = {"share": share, "first": first, "weight": weight, "way": way}
                    runs.append(rounded(**kind, claimed=claimed, true=true))
    return runs


def weighed(reward: Reward, weight: float) -> Reward:
    return lambda z: weight * reward(z)


def ways(many: list[Reward]) -> dict[str, Reward]:
    def each(z: Tensor) -> Tensor:
        return torch.stack([reward(z) for reward in many])

    return {
        "one": many[0],
        "minimum": lambda z: each(z).amin(0),
        "mean − sd": lambda z: each(z).mean(0) - each(z).std(0),
    }


def five_rewards_table(runs: list[Run]) -> list[str]:
    def mean(figure: str, **kind: Any) -> str:
        value = statistics.mean(run[figure] for run in runs if kind.items() <= run.items())
        return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 20 else f"{value:.0f}"

    lines = []
    for share, name in ((1, "all codes"), (0.5, "half of them")):
        for weight in (1, 3, 10, 30):
            kind = {"share": share, "weight": weight}
            one, least = (
                ", ".join(mean(figure, **kind, way=way) for figure in ("claimed", "true"))
                for way in ("one", "minimum")
            )
            lines.append(f"| {weight} | {name} | {one} | {least} | {less_excess(runs, **kind)} |")
    return lines


def less_excess(runs: list[Run], **kind: Any) -> Interval:
    """By how much the minimum claims too much, less by how much one network does."""
    one, least = (
        [
            run["claimed"] - run["true"]
            for run in runs
            if (kind | {"way": way}).items() <= run.items()
        ]
        for way in ("one", "minimum")
    )
    return interval([a - b for a, b in zip(least, one, strict=True)])


# Section 6.8: the race of one wish and another, for five trained models.


def five_races() -> list[Run]:
    runs = []
    for seed in range(5):
        shown = "c003", "c021", "c023", "c028", "c041", "c043", "c044", "c048", "c0481"
        names = play("6.5", *shown, seed=seed)
        prior, judged = names["prior"], names["judged"]
        for wish, reward in names["wished"].items():
            effective, (claimed, dense, sure), _ = names["targets"][wish]
            ends = {"claimed": claimed, "log_p": dense, "judged": sure}
            ends = {figure: value.item() for figure, value in ends.items()}
            runs.append(
                rounded(seed=seed, wish=wish, way="target", effective=effective.item(), **ends)
            )
            for cost, found in names["races"][wish]:
                for way, z in found.items():
                    with torch.no_grad():
                        ends = {
                            "claimed": reward(z).mean().item(),
                            "log_p": prior.log_prob(z).mean().item(),
                            "judged": judged(z, 3).mean().item(),
                            "ink": names["true_ink"](z).mean().item(),
                        }
                    runs.append(rounded(seed=seed, wish=wish, way=way, cost=cost, **ends))
    return runs


# 7.5: the best schedule.


def schedules() -> list[Run]:
    names = play("7.5", "c003", "c007", "c018", "c020")
    centres, alpha, sigma = names["centres"], names["alpha"], names["sigma"]
    torch.manual_seed(0)
    grid = torch.arange(-60, 81) / 10
    x = centres[torch.randint(8, (100_000,))] + 0.14 * torch.randn(100_000, 2)
    errors = []
    for lam in grid:
        z = alpha(lam) * x + sigma(lam) * torch.randn_like(x)
        errors.append((x - names["exact"](z, lam)).square().sum(-1).mean())
    error, snr = torch.stack(errors).double(), grid.double().exp()
    # The reconstruction has the best fixed width, error / 2 a coordinate.
    ends = -1 - (math.pi * error).log()
    kept = grid.double().sigmoid()
    second = x.square().mean(0).double()[:, None]
    starts = -0.5 * (kept * second + (1 - kept) - 1 - (1 - kept).log()).sum(0)
    single, at = (starts + ends).max(0)
    runs = [rounded(steps="one level", levels=1, best=single.item(), lam=grid[at].item())]
    for kind in ("narrow", "fitted"):
        fall = (snr - snr[:, None]) * error[:, None]  # from the noisier level, a row, to the other
        cost = 0.5 * fall if kind == "narrow" else (fall / 2).log1p()
        cost = cost.masked_fill(torch.ones_like(cost).tril().bool(), math.inf)
        best = starts
        for levels in range(2, 17):
            best = (best[:, None] - cost).amax(0)
            if levels in (4, 16):
                equal = torch.linspace(20, 100, levels).round().long()
                total = starts[equal[0]] + ends[equal[-1]] - cost[equal[:-1], equal[1:]].sum()
                runs.append(
                    rounded(
                        steps=kind, levels=levels, best=(best + ends).max().item(),
                        equal=total.item(),
                    )
                )  # fmt: skip
    return runs


# 8.5: straighten the paths.

PLAIN_STEPS = (1, 2, 4, 16)


def reflows() -> list[Run]:
    runs = []
    for seed in range(3):
        names = play("8.5", "c003", "c016", seed=seed)
        torch.manual_seed(seed)
        test, second = names["ring"].test, names["reflow"](3000)
        for field, prior in (("first", names["on_ring"]), ("second", second)):
            torch.manual_seed(100 + seed)
            u = torch.randn(5000, 2)
            with torch.no_grad():
                apart = {
                    str(n): round(energy_distance(euler(prior, u, n), test), 5) for n in PLAIN_STEPS
                }
                log_p = prior().log_prob(test).mean().item()
            runs.append(rounded(seed=seed, field=field, apart=apart, log_prob=log_p))
    return runs


def reflows_table(runs: list[Run]) -> list[str]:
    rows = []
    for field in ("first", "second"):
        of_it = [run for run in runs if run["field"] == field]
        cells = [
            f"{statistics.mean(run['apart'][str(n)] for run in of_it):.3f}" for n in PLAIN_STEPS
        ]
        log_p = ", ".join(f"{run['log_prob']:.2f}" for run in of_it)
        rows.append(f"| {field} | {' | '.join(cells)} | {log_p} |")
    return rows


# 8.8: how much of an NLL at a weak KL term is the looseness of its bound?

FAR = (1, 1.5, 2, 3, 4, 6)


def wider_codes() -> list[Run]:
    """As 1.10, with a field and without, at two weights of the KL term."""
    nll = play("1.5", "c003", "w000")["nll_from_wider"]
    data, runs = load("digits"), []
    for beta in (0.1, 1.0):
        for seed in range(5):
            for model in ("gaussian", "two-stage-flow-matching-prior"):
                epochs = START if model != "gaussian" else settle(model, data, beta)[0]
                vae, _ = trained(model, data, beta, epochs, seed)
                torch.manual_seed(0)
                tried = {width: nll(vae, data.validation, width, 500) for width in FAR}
                best = min(tried, key=lambda width: tried[width])
                own, least = (nll(vae, data.test, width, 2000) for width in (1, best))
                figures = rounded(own=own, width=best, least=least)
                runs.append({"model": model, "beta": beta, "seed": seed} | figures)
    return runs


ALL: dict[str, tuple[Callable[[], list[Run]], Callable[[list[Run]], list[str]] | None]] = {
    "1.5": (units, units_table),
    "1.10": (wider, None),
    "2.5": (weights, weights_table),
    "3.5": (lower_only, lower_only_table),
    "3.10": (wide, None),
    "4.5": (mixture_base, mixture_base_table),
    "5.5": (told_more, told_more_table),
    "5.5-seeds": (two_more_seeds, None),
    "5.6-seeds": (two_more_seeds_of_digits, None),
    "5.12": (cures, None),
    "6.5": (five_rewards, five_rewards_table),
    "6.8-seeds": (five_races, None),
    "7.5": (schedules, None),
    "8.5": (reflows, reflows_table),
    "8.8": (wider_codes, None),
}


def table(name: str, runs: list[Run]) -> list[str]:
    """The rows of a solution's table, as the page prints them."""
    make = ALL[name][1]
    return [re.sub(r"-(?=\d)", "−", line) for line in make(runs)] if make else []


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"no solution {unknown[0]!r}: choose from {', '.join(ALL)}")
    folder = book_results() / "solutions"
    for name in names or ALL:
        file = folder / f"{name}.json"
        if not file.exists():
            # Data lie there, and `fit` trains where they do.
            commit = files.current_commit()
            record = files.describe("cpu", commit, solution=name, runs=ALL[name][0]())
            files.write(KIND, record, folder)
        print(name, *table(name, files.read(KIND, file)["runs"]), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
