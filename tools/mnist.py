"""Long runs of MNIST with path gradients, several at once: python tools/mnist.py DATA MODEL …

    python tools/mnist.py dynamic-mnist gaussian vampprior --seeds 3 --jobs 16 --device cuda

A run of 400 epochs writes book/results/mnist/NAME.json, which chapter 9 reads. The batch and the
step of the VAE are those that a trial of 30 epochs preferred on the validation pictures
(tools/trials.py); those of the other models are taken from it and still to be tried. A stopped run
goes on from its last epoch: checkpoints, and the weights of its best epoch, lie in the git-ignored
runs/mnist/. A run has one process and one thread; on a GPU small models wait for their own launches
most of the time, so many of them share it well.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flowvae_tutorial import build, fit
from flowvae_tutorial.data import load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.jobs import at_once
from flowvae_tutorial.experiments.records import RUNS, make_record
from flowvae_tutorial.models import resolve, training_settings
from flowvae_tutorial.training import device_by_name

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


def run(model: str, name: str, seed: int, device: str) -> None:
    file = files.run_name(model, name, 1.0, seed)
    folder = files.book_results() / "mnist"
    if (folder / f"{file}.json").exists():
        return
    data = load(name).to(device_by_name(device))
    settings = training_settings(data) | {"epochs": EPOCHS, "patience": EPOCHS}
    settings |= OWN.get(model, {})
    torch.manual_seed(seed)
    vae = build(model, data)
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    checkpoint = CHECKPOINTS / f"{file}.pt"
    history = fit(
        vae, data, seed=seed, **settings, checkpoint=checkpoint, name=model, progress=True
    )
    save_file(
        {name: value.contiguous().clone() for name, value in vae.state_dict().items()},
        checkpoint.with_suffix(".safetensors"),
    )
    record = make_record(
        model, vae, data, resolve(model, data)[1], history, seed=seed, beta=1.0,
        num_samples=SAMPLES, commit=files.current_commit(), settings=settings,
        partial=checkpoint.with_suffix(".partial"), progress=True,
    )  # fmt: skip
    files.write(RUNS, record, folder)
    print(f"{file}: NLL {record['nll']['mean']:.3f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", choices=["dynamic-mnist", "static-mnist"])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(arguments)
    work = itertools.product(asked.models, [asked.data], range(asked.seeds), [asked.device])
    at_once(run, sorted(work, key=lambda each: each[2]), asked.jobs)


if __name__ == "__main__":
    main()
