"""Samples of priors that came after their VAE, on digits: python tools/latent.py

For five VAEs at each weight of the KL term: how far samples are from the test pictures under
N(0, I) and under the flow-matching prior, how many of Euler's steps the second takes, and the NLL
of the VAE before it. The models are those of tools/ladder.py, which trains what is not there.
Nothing is chosen here. Writes book/results/latent/NAME.json, and what is there is not run again.
"""

import torch
from torch import Tensor

from flowvae_tutorial import (
    VAE,
    FlowMatchingPrior,
    StandardNormal,
    energy_distance,
    evaluate,
    precision_and_recall,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.refinement_records import Classifier, fit_classifier
from ladder import SEEDS, settle, trained

MODEL, FIRST = "two-stage-flow-matching-prior", "gaussian"
EPOCHS = 200
BETAS = (0.1, 1.0)
STEPS = (1, 2, 4, 8, 16, 32, 64)
SAMPLES = 5000
_PRIOR = files.form(
    {"energy_distance": files.NUMBER, "precision": files.NUMBER, "recall": files.NUMBER}
)
_FORM = files.form(
    files.CODE | files.DAY | {
        "model": files.TEXT, "data": files.TEXT, "beta": files.NUMBER, "seed": files.COUNT,
        "num_samples": files.POSITIVE, "standard_normal": _PRIOR, "matching": _PRIOR,
        "nll_standard_normal": files.NUMBER,
        "training_pictures": files.NUMBER, "steps": files.OBJECT,
    }
)  # fmt: skip
KIND = files.Kind(
    "sets of samples", "python tools/latent.py", _FORM,
    lambda run: files.run_name(run["model"], run["data"], run["beta"], run["seed"]),
)  # fmt: skip


def euler(prior: FlowMatchingPrior, u: Tensor, steps: int) -> Tensor:
    """Where the field leads noise `(N, D)` in so many plain steps."""
    for step in range(steps):
        u = u + prior.velocity(u, u.new_tensor(step / steps)) / steps
    return u


def quality(x: Tensor, data: Data, classifier: Classifier) -> files.Record:
    """Energy distance between pixels; precision and recall, as in section 6.6, of as many."""
    features = [classifier.features(pictures) for pictures in (x[: len(data.test)], data.test)]
    precision, recall = precision_and_recall(*features)
    apart = energy_distance(x, data.test)
    return {"energy_distance": apart, "precision": precision, "recall": recall}


@torch.no_grad()
def measure(vae: VAE, data: Data, classifier: Classifier, beta: float, seed: int) -> files.Record:
    torch.manual_seed(seed)
    u = torch.randn(SAMPLES, vae.prior.velocity.last.out_features)
    decoded = {steps: vae.likelihood(euler(vae.prior, u, steps)).sample() for steps in STEPS}
    many = vae.likelihood(vae.prior().transform(u)).sample()
    before = VAE(StandardNormal(u.shape[-1]), vae.posterior, vae.likelihood)
    record = {
        "nll_standard_normal": evaluate(before, data.test, SAMPLES).nll.mean().item(),
        "standard_normal": quality(vae.likelihood(u).sample(), data, classifier),
        "matching": quality(many, data, classifier),
        "training_pictures": energy_distance(data.batch(data.train), data.test),
        "steps": {str(steps): energy_distance(x, data.test) for steps, x in decoded.items()},
    }
    return files.describe(
        "cpu", files.current_commit(), model=MODEL, data=data.name, beta=beta, seed=seed,
        num_samples=SAMPLES, **record,
    )  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    data = load("digits")
    folder = files.book_results() / "latent"
    classifier = fit_classifier(data)
    for beta in BETAS:
        settle(FIRST, data, beta)
        for seed in range(SEEDS[data.name]):
            name = files.run_name(MODEL, data.name, beta, seed)
            if not (folder / f"{name}.json").exists():
                vae, _ = trained(MODEL, data, beta, EPOCHS, seed)
                record = measure(vae, data, classifier, beta, seed)
                files.write(KIND, record, folder)
                print(name, record["standard_normal"], record["matching"], flush=True)


if __name__ == "__main__":
    main()
