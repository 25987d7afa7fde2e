"""Runs of the book's models by name: trained, evaluated, put on record.

Example:
    >>> from pathlib import Path
    >>> import torch
    >>> from flowvae_tutorial.data import load
    >>> from flowvae_tutorial.experiments.runs import train_run
    >>> from flowvae_tutorial.storage.trained import load_trained
    >>> data, checkpoint = load("rings"), Path("rings-gaussian-seed0.pt")
    >>> trained = train_run(
    ...     "gaussian", data, seed=0, beta=1.0, device=torch.device("cpu"),
    ...     checkpoint=checkpoint, epochs=1,
    ... )
    >>> again = load_trained(checkpoint)
    >>> again.model, again.data, again.vae.sample(3).shape
    ('gaussian', 'rings', torch.Size([3, 2]))
"""

from pathlib import Path
from typing import Any

import torch

from ..data import Data
from ..models import FIRST_STAGE, Sizes, build, resolve, training_settings
from ..storage.own_data import load_data
from ..storage.trained import Trained
from ..training.loop import fit
from ..training.ranks import device_by_name
from .record_files import Record, run_name
from .records import make_record, write_record

# Beside the checkpoint of a run that has a first stage.
FIRST_STAGE_FILE = "first-stage.pt"


def train_run(
    model: str,
    data: Data,
    *,
    seed: int,
    beta: float,
    device: torch.device,
    checkpoint: Path,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Trained:
    """Train the model of this name as the book does, or go on with its checkpoint.

    Args:
        model: as `models.resolve` takes it.
        data: what to train on.
        seed: of weights, batches and noise.
        beta: the weight of the KL term.
        device: where to train.
        checkpoint: the run's file.
        epochs: in place of the book's.
        batch_size: in place of the book's.

    Raises:
        InputError: no such model, an argument that makes no sense, or a checkpoint of another run.
        NotFinite: the loss is NaN or infinite.
    """
    name, sizes = resolve(model, data)
    settings = training_settings(data)
    if epochs is not None:
        settings["epochs"] = epochs
    if batch_size is not None:
        settings["batch_size"] = batch_size
    common: dict[str, Any] = settings | {
        "beta": beta, "seed": seed, "device": device, "progress": True
    }  # fmt: skip
    first = None
    if name in FIRST_STAGE:
        torch.manual_seed(seed)
        first = build(FIRST_STAGE[name], data)
        first_stage = checkpoint.with_name(FIRST_STAGE_FILE)
        # A second stage that has begun holds the first as it was: more epochs would part the two.
        if not checkpoint.exists():
            fit(first, data, checkpoint=first_stage, name=FIRST_STAGE[name], **common)
    torch.manual_seed(seed)
    vae = build(model, data, sizes, first=first)
    history = fit(vae, data, checkpoint=checkpoint, name=model, **common)
    return Trained(vae, model, data.name, seed, beta, settings, history)


def record_of(
    trained: Trained, data: Data, *, num_samples: int, commit: str, partial: Path | None = None
) -> Record:
    """Evaluate a trained model on the test set of its data; the rest is as `make_record` has it."""
    built_from = trained.vae.built_from
    sizes = Sizes(**built_from["sizes"]) if built_from else resolve(trained.model, data)[1]
    return make_record(
        trained.model, trained.vae, data, sizes, trained.history,
        seed=trained.seed, beta=trained.beta, num_samples=num_samples, commit=commit,
        settings=trained.settings, partial=partial, progress=True,
    )  # fmt: skip


def reproduce_model(
    model: str,
    data: str,
    runs: list[tuple[float, int]],
    epochs: int | None,
    samples: int,
    device: str,
    results: Path,
    out: Path,
    commit: str,
) -> None:
    """Runs of one model, each a KL weight and a seed, one after the other."""
    dataset = load_data(data)
    for beta, seed in runs:
        checkpoint = out / run_name(model, dataset.name, beta, seed) / "checkpoint.pt"
        trained = train_run(
            model, dataset, seed=seed, beta=beta, device=device_by_name(device),
            checkpoint=checkpoint, epochs=epochs,
        )  # fmt: skip
        partial = checkpoint.with_name("evaluation.part")
        record = record_of(trained, dataset, num_samples=samples, commit=commit, partial=partial)
        write_record(record, results)
        partial.unlink(missing_ok=True)
