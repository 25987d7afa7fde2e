"""Runs of the book's models by name: trained, kept, found again.

Example:
    >>> from pathlib import Path
    >>> import torch
    >>> from flowvae_tutorial.data import load
    >>> from flowvae_tutorial.runs import load_trained, train_run
    >>> data, checkpoint = load("rings"), Path("rings-gaussian-seed0.pt")
    >>> trained = train_run(
    ...     "gaussian", data, seed=0, beta=1.0, device=torch.device("cpu"),
    ...     checkpoint=checkpoint, epochs=1,
    ... )
    >>> again = load_trained(checkpoint)
    >>> again.model, again.data, again.vae.sample(3).shape
    ('gaussian', 'rings', torch.Size([3, 2]))
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checkpoints import load_checkpoint
from .data import Data, load, outline
from .errors import InputError
from .history import History
from .models import FIRST_STAGE, MODELS, build, on_first_stage, resolve, training_settings
from .record_files import Record, run_name
from .records import make_record, write_record
from .training import device_by_name, fit
from .vae import VAE
from .weights import read_weights, write_weights

# Beside the checkpoint of a run that has a first stage.
FIRST_STAGE_FILE = "first-stage.pt"


class Trained(NamedTuple):
    """A trained model and what is known of its run."""

    vae: VAE
    model: str
    data: str
    seed: int
    beta: float
    settings: dict[str, Any]
    """The arguments of `fit` that the book chooses for its data."""
    history: History

    @property
    def about(self) -> dict[str, Any]:
        """What a weights file says of itself."""
        return {
            "model": self.model, "data": self.data, "seed": self.seed, "beta": self.beta,
            "settings": self.settings, "history": asdict(self.history),
        }  # fmt: skip


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


def load_trained(path: Path | str) -> Trained:
    """The model of a checkpoint, with the weights of its best epoch, or of a weights file.

    Needs no data.

    Raises:
        InputError: the file is missing, damaged, of a newer version, or of a model that this
            version builds otherwise.
    """
    path = Path(path)
    try:
        state, about = (read_weights if path.suffix == ".safetensors" else _read_best)(path)
        model, data, history = about["model"], about["data"], History(**about["history"])
        seed, beta, settings = about["seed"], about["beta"], about["settings"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say what it is of, as files of this version do: train again"
        ) from error
    try:
        form = outline(data)
        name, sizes = resolve(model, form)
        vae = MODELS[name](form, sizes)
        vae.load_state_dict(state)
        if name in FIRST_STAGE:
            vae = on_first_stage(vae, vae)
    except (InputError, RuntimeError) as error:
        # Torch lists every difference, one a line.
        raise InputError(
            f"{path} is of the model {model!r} for {data!r}, which this version does not build "
            f"like that: {str(error).splitlines()[-1].strip()}"
        ) from error
    return Trained(vae.eval(), model, data, seed, beta, settings, history)


def _read_best(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a weights file of the same run would hold."""
    checkpoint = load_checkpoint(path)
    run = checkpoint["run"]
    settings = {name: run[name] for name in ("batch_size", "lr", "warmup", "patience")}
    if run["clip"] < math.inf:
        settings["clip"] = run["clip"]
    if run["decay"]:
        settings["decay"], settings["epochs"] = run["decay"]
    else:
        settings["epochs"] = checkpoint["epochs"]
    return checkpoint["best"], {
        "model": run["model"], "data": run["data"], "seed": run["seed"], "beta": run["beta"],
        "settings": settings, "history": checkpoint["history"],
    }  # fmt: skip


def save_trained(trained: Trained, path: Path) -> Path:
    """Write the weights, in full precision, and what is known of the run."""
    return write_weights(path, trained.vae.state_dict(), trained.about)


def record_of(
    trained: Trained, data: Data, *, num_samples: int, commit: str, partial: Path | None = None
) -> Record:
    """Evaluate a trained model on the test set of its data.

    Args:
        trained: the model.
        data: what it was trained on.
        num_samples: S of the importance-sampled NLL.
        commit: of the code.
        partial: a file that keeps what a stopped evaluation has done so far.
    """
    _, sizes = resolve(trained.model, data)
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
    dataset = load(data)
    for beta, seed in runs:
        checkpoint = out / run_name(model, data, beta, seed) / "checkpoint.pt"
        trained = train_run(
            model, dataset, seed=seed, beta=beta, device=device_by_name(device),
            checkpoint=checkpoint, epochs=epochs,
        )  # fmt: skip
        partial = checkpoint.with_name("evaluation.part")
        record = record_of(trained, dataset, num_samples=samples, commit=commit, partial=partial)
        write_record(record, results)
        partial.unlink(missing_ok=True)
