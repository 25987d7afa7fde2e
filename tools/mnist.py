"""Long runs of MNIST with path gradients: python tools/mnist.py DATA MODEL [MODEL …]

A run of 400 epochs writes book/results/mnist/NAME.json; no page reads one yet. The batch and the
step of the VAE are those that a trial of 30 epochs preferred on the validation pictures
(tools/trials.py); those of the other models are taken from it and still to be tried. A stopped run
goes on from its last epoch: checkpoints lie in the git-ignored runs/mnist/.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from flowvae_tutorial import build, fit
from flowvae_tutorial.data import load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import RUNS, make_record
from flowvae_tutorial.models import resolve, training_settings

EPOCHS = 400
SAMPLES = 5000
CHECKPOINTS = Path("runs/mnist")
# Of a VampPrior every step encodes the pseudo-inputs, so few steps cost less.
FEW: dict[str, Any] = {"batch_size": 250, "lr": 3e-3}
OWN: dict[str, dict[str, Any]] = {
    "gaussian": {"batch_size": 200, "lr": 3e-3},
    "hvae": {"batch_size": 200, "lr": 3e-3},
    "vampprior": FEW,
    "hierarchical-vampprior": FEW,
}


def run(model: str, name: str, seed: int = 0) -> None:
    data = load(name)
    settings = training_settings(data) | {"epochs": EPOCHS, "patience": EPOCHS}
    settings |= OWN.get(model, {})
    folder = files.book_results() / "mnist"
    file = files.run_name(model, name, 1.0, seed)
    if (folder / f"{file}.json").exists():
        return
    torch.manual_seed(seed)
    vae = build(model, data)
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    checkpoint = CHECKPOINTS / f"{file}.pt"
    history = fit(
        vae, data, seed=seed, **settings, checkpoint=checkpoint, name=model, progress=True
    )
    record = make_record(
        model, vae, data, resolve(model, data)[1], history, seed=seed, beta=1.0,
        num_samples=SAMPLES, commit=files.current_commit(), settings=settings,
        partial=checkpoint.with_suffix(".partial"), progress=True,
    )  # fmt: skip
    files.write(RUNS, record, folder)
    print(f"{file}: NLL {record['nll']['mean']:.3f}", flush=True)


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    data, *models = arguments
    for model in models:
        run(model, data)


if __name__ == "__main__":
    main(sys.argv[1:])
