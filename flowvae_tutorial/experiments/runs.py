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

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..data import Data
from ..errors import InputError
from ..models import FIRST_STAGE, Sizes, build, resolve, training_settings
from ..storage.files import only_writer
from ..storage.own_data import load_data
from ..storage.trained import Trained
from ..training.loop import NotFinite, fit
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
    settings = settings_of(data, epochs, batch_size)
    common: dict[str, Any] = settings | {
        "beta": beta, "seed": seed, "device": device, "progress": True
    }  # fmt: skip
    first = None
    if name in FIRST_STAGE:
        torch.manual_seed(seed)
        first = build(FIRST_STAGE[name], data)
        first_stage = checkpoint.with_name(FIRST_STAGE_FILE)
        # A second stage that has begun holds the first as it was.
        if not checkpoint.exists():
            fit(first, data, checkpoint=first_stage, name=FIRST_STAGE[name], **common)
    torch.manual_seed(seed)
    vae = build(model, data, sizes, first=first)
    history = fit(vae, data, checkpoint=checkpoint, name=model, **common)
    return Trained(vae, model, data.name, seed, beta, settings, history)


def train_or_again(
    model: str, data: Data, *, checkpoint: Path, overwrite: bool, **how: Any
) -> Trained:
    """As `train_run`; with `overwrite` a checkpoint of something else is no obstacle."""
    try:
        return train_run(model, data, checkpoint=checkpoint, **how)
    except InputError:
        first_stage = checkpoint.with_name(FIRST_STAGE_FILE)
        if not overwrite or not (checkpoint.exists() or first_stage.exists()):
            raise
    with aside(checkpoint, first_stage):
        return train_run(model, data, checkpoint=checkpoint, **how)


@contextlib.contextmanager
def aside(*files: Path) -> Iterator[None]:
    """Files stand aside for new ones, and come back if there are none."""
    moved = {file: file.with_name(f"{file.name}.before") for file in files if file.is_file()}
    for file, place in moved.items():
        file.replace(place)
    try:
        yield
    finally:
        replaced = any(file.exists() for file in files)
        for file, place in moved.items():
            if replaced:
                place.unlink()
            else:
                place.replace(file)


def settings_of(
    data: Data, epochs: int | None = None, batch_size: int | None = None
) -> dict[str, Any]:
    """The arguments of `fit` of a run: the book's for these data, but for what is given."""
    given = {"epochs": epochs, "batch_size": batch_size}
    return training_settings(data) | {k: value for k, value in given.items() if value is not None}


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


def reproduce_run(
    model: str,
    data: str,
    beta: float,
    seed: int,
    epochs: int | None,
    samples: int,
    device: str,
    results: Path,
    out: Path,
    commit: str,
    overwrite: bool = False,
) -> str | None:
    """Train one model with one seed and write its record; why not, if it failed."""
    try:
        dataset = load_data(data)
        checkpoint = out / run_name(model, dataset.name, beta, seed) / "checkpoint.pt"
        partial = checkpoint.with_name("evaluation.part")
        with only_writer(checkpoint):
            trained = train_or_again(
                model, dataset, seed=seed, beta=beta, device=device_by_name(device),
                checkpoint=checkpoint, epochs=epochs, overwrite=overwrite,
            )  # fmt: skip
            record = record_of(
                trained, dataset, num_samples=samples, commit=commit, partial=partial
            )
            write_record(record, results)
            partial.unlink(missing_ok=True)
    except Exception as error:
        if (explained := explain(error)) is None:
            raise
        return explained[0]
    return None


def explain(error: Exception) -> tuple[str, int] | None:
    """One line and an exit code for all that can go wrong without being a bug; none for a bug."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, NotFinite):
        return f"{error} (a checkpoint keeps the epoch before, if any)", 1
    reason = str(error).partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError):
        return f"{reason} Try --device cpu.", 1
    # On the CPU torch has no kind of its own for it.
    if isinstance(error, MemoryError) or "can't allocate memory" in reason:
        return f"too little memory ({reason or 'MemoryError'}): choose smaller numbers", 1
    if isinstance(error, OSError):
        return f"could not read or write: {reason}", 2
    return None
