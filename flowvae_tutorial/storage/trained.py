"""A trained model as a file: written with what is known of its run, and built again from it.

Example:
    >>> from pathlib import Path
    >>> from flowvae_tutorial import build, fit
    >>> from flowvae_tutorial.data import load
    >>> from flowvae_tutorial.storage.trained import load_trained
    >>> data, checkpoint = load("rings"), Path("rings-gaussian.pt")
    >>> history = fit(
    ...     build("gaussian", data), data, epochs=1, checkpoint=checkpoint, name="gaussian"
    ... )
    >>> again = load_trained(checkpoint)
    >>> again.model, again.data, again.vae.sample(3).shape
    ('gaussian', 'rings', torch.Size([3, 2]))
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..data import outline
from ..errors import InputError
from ..history import History
from ..models import FIRST_STAGE, MODELS, on_first_stage, resolve
from ..vae import VAE
from .checkpoints import load_checkpoint
from .weights import read_weights, write_weights


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
