"""Long runs of MNIST with path gradients, several at once: python tools/mnist.py DATA MODEL …

    python tools/mnist.py dynamic-mnist gaussian vampprior --seeds 3 --jobs 16 --device cuda

A run of 400 epochs writes book/results/mnist/NAME.json, which chapter 9 reads. The batch and the
step of the VAE and of the HVAE are those that a trial of 30 or 60 epochs preferred on the
validation pictures (tools/trials.py); those of the other models are taken from these two. A model
of two stages takes the first from the run of that model and seed, which must have ended. A stopped
run goes on from its last epoch: checkpoints, and the weights of its best epoch, lie in the
git-ignored runs/mnist/. A run has one process and one thread; on a GPU small models wait for their
own launches most of the time, so many of them share it well. --bf16 rounds the factors of a
training step's matrix products to bfloat16, and of the validation's, and adds up in float32: a step
took 0.6 of its time under a VampPrior and 0.9 under a flow. The record says so, and a processor
without such products is refused. What is reported of the test pictures is computed in float32.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flowvae_tutorial import VAE, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.jobs import at_once
from flowvae_tutorial.experiments.records import RUNS, make_record
from flowvae_tutorial.models import FIRST_STAGE, resolve, training_settings
from flowvae_tutorial.training import device_by_name

EPOCHS = 400
SAMPLES = 5000
CHECKPOINTS = Path("runs/mnist")
PRODUCTS: Any = getattr(torch.backends.mkldnn, "matmul", None)  # an older torch has none
OWN: dict[str, dict[str, Any]] = {
    "gaussian": {"batch_size": 200, "lr": 3e-3},
    # Of a VampPrior every step encodes the pseudo-inputs, so few steps cost less.
    "vampprior": {"batch_size": 250, "lr": 3e-3},
    # With two levels the codes of single pictures fly off at the larger step.
    "hvae": {"batch_size": 200, "lr": 1e-3},
    "hierarchical-vampprior": {"batch_size": 250, "lr": 1e-3},
    # The codes are held: a second stage is a regression on them.
    "two-stage-flow-matching-prior": {"batch_size": 200, "lr": 1e-3, "epochs": 100},
    "two-stage-flow-prior": {"batch_size": 200, "lr": 1e-3, "epochs": 100},
}


def weights_file(model: str, data: str, seed: int) -> Path:
    return CHECKPOINTS / f"{files.run_name(model, data, 1.0, seed)}.safetensors"


def first_stage(model: str, data: Data, seed: int) -> VAE | None:
    """The trained model whose posterior and likelihood this one holds, if it does."""
    if (name := FIRST_STAGE.get(model)) is None:
        return None
    if not (weights := weights_file(name, data.name, seed)).exists():
        sys.exit(f"{model} begins with a trained {name!r}: run that first ({weights} is not there)")
    first = build(name, data)
    first.load_state_dict(load_file(weights))
    return first


@contextmanager
def products(bf16: bool) -> Iterator[None]:
    """Matrix products on a CPU of factors rounded to bfloat16, if asked for."""
    if not bf16:
        yield
        return
    before, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "bf16"
    try:
        yield
    finally:
        PRODUCTS.fp32_precision = before


def rounds() -> bool:
    """Whether this torch and processor round the factors when they are asked to."""
    thirds = torch.full((512, 512), 1 / 3)
    with products(PRODUCTS is not None):
        asked = thirds @ thirds
    return not torch.equal(asked, thirds @ thirds)


def run(model: str, name: str, seed: int, device: str, bf16: bool = False) -> None:
    file = files.run_name(model, name, 1.0, seed)
    folder = files.book_results() / "mnist"
    if (folder / f"{file}.json").exists():
        return
    data = load(name).to(device_by_name(device))
    settings = training_settings(data) | {"epochs": EPOCHS} | OWN.get(model, {})
    settings["patience"] = settings["epochs"]
    first = first_stage(model, data, seed)
    torch.manual_seed(seed)
    vae = build(model, data, first=first)
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    checkpoint = CHECKPOINTS / f"{file}{'-bf16' if bf16 else ''}.pt"
    with products(bf16):
        history = fit(
            vae, data, seed=seed, **settings, checkpoint=checkpoint, name=model, progress=True
        )
    if bf16:
        settings["products"] = "bfloat16"
    save_file(
        {name: value.contiguous().clone() for name, value in vae.state_dict().items()},
        weights_file(model, name, seed),
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
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16 (CPU)")
    asked = parser.parse_args(arguments)
    if asked.bf16 and (asked.device != "cpu" or not rounds()):
        parser.error("--bf16 is for a CPU with products in bfloat16, and for a torch that has them")
    seeds, how = range(asked.seeds), ([asked.device], [asked.bf16])
    work = itertools.product(asked.models, [asked.data], seeds, *how)
    at_once(run, sorted(work, key=lambda each: each[2]), asked.jobs)


if __name__ == "__main__":
    main()
