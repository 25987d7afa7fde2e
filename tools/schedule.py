"""Chapter 2's headline by other recipes: python tools/schedule.py [RECIPE …]

A VAE with N(0, I) and one with a VampPrior are trained as often as the book's, by recipes that
lack something of the book's. Each recipe writes book/results/schedule/NAME.json, and one that is
there is not run again. The two take half an hour on one CPU thread.
"""

import sys
from typing import Any

import torch
from torch import Tensor

from flowvae_tutorial import VAE, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import make_record
from flowvae_tutorial.models import default_sizes
from ladder import SAMPLES, SEEDS, settings

MODELS = ("gaussian", "vampprior")
EPOCHS = 200
RECIPES: dict[str, tuple[str, dict[str, float]]] = {
    "constant-step": ("the plain gradient, and a step that stays as it is", {"decay": 0.0}),
    "plain-gradient": ("the plain gradient", {}),
}
_RUN = files.form(
    {
        "model": files.TEXT, "seed": files.COUNT, "num_samples": files.POSITIVE,
        "elbo": files.NUMBER, "best_epoch": files.POSITIVE, "active_units": files.COUNT,
        "seconds": files.NUMBER,
        "nll": files.form({"mean": files.NUMBER, "per_example": files.NUMBERS}),
    }
)  # fmt: skip
_FORM = files.form(
    files.CODE | files.DAY | {
        "recipe": files.TEXT, "change": files.TEXT, "data": files.TEXT, "settings": files.OBJECT,
        "runs": {"type": "array", "items": _RUN, "minItems": 1},
    }
)  # fmt: skip
KIND = files.Kind("schedules", "python tools/schedule.py", _FORM, lambda record: record["recipe"])


class PlainGradient(VAE):
    """A VAE whose loss is differentiated as it stands, with the posterior's score."""

    def loss(self, x: Tensor, beta: float = 1.0) -> Tensor:
        reconstruction, kl = self.elbo(x)
        return (beta * kl - reconstruction).mean()


def run(model: str, data: Data, seed: int, recipe: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(seed)
    vae = build(model, data)
    vae = PlainGradient(vae.prior, vae.posterior, vae.likelihood)
    history = fit(vae, data, seed=seed, **recipe)
    record = make_record(
        model, vae, data, default_sizes(data), history, seed=seed, beta=1.0,
        num_samples=SAMPLES, commit="",
    )  # fmt: skip
    kept = ("model", "seed", "num_samples", "best_epoch", "active_units", "seconds")
    nll = {name: record["nll"][name] for name in ("mean", "per_example")}
    elbo = round(max(history.elbo), 4)
    print(f"{model} {seed}: validation ELBO {elbo}, NLL {nll['mean']}", flush=True)
    return {name: record[name] for name in kept} | {"elbo": elbo, "nll": nll}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        sys.exit(f"no recipe {unknown[0]!r}: choose from {', '.join(RECIPES)}")
    torch.set_num_threads(1)
    folder, data = files.book_results() / "schedule", load("digits")
    for name in names or RECIPES:
        if (folder / f"{name}.json").exists():
            continue
        change, other = RECIPES[name]
        recipe = settings(EPOCHS) | other
        runs = [
            run(model, data, seed, recipe) for model in MODELS for seed in range(SEEDS[data.name])
        ]
        record = files.describe(
            "cpu", files.current_commit(), recipe=name, change=change, data=data.name,
            settings=recipe, runs=runs,
        )  # fmt: skip
        files.write(KIND, record, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
