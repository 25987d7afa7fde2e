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

from ..data import DATA_SETS, Data, blank, outline
from ..errors import InputError
from ..history import History
from ..models import FIRST_STAGE, Sizes, assemble, on_first_stage
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
            "built_from": self.vae.built_from,
        }  # fmt: skip

    @property
    def outline(self) -> Data:
        """The form of its data, with the examples of those of the book's that need no download."""
        form = (self.vae.built_from or {}).get("data")
        return outline(self.data) if self.data in DATA_SETS or form is None else blank(**form)


def save_model(
    vae: VAE,
    path: Path | str,
    history: History | None = None,
    *,
    seed: int = 0,
    beta: float = 1.0,
) -> Path:
    """Write a model that `build` made, with what it is built from: a file of some megabytes.

    Args:
        vae: the model.
        path: the file, a `.safetensors`.
        history: what `fit` gave back, for records of the command line.
        seed: as `fit` had it.
        beta: as `fit` had it.

    Raises:
        InputError: the model was put together by hand, the file has another ending, or the disk is
            full or not writable.

    Example:
        >>> from flowvae_tutorial import build, load_model, own_data, save_model
        >>> import torch
        >>> data = own_data(torch.rand(100, 8, 8), "noise")
        >>> path = save_model(build("gaussian", data), "noise.safetensors")
        >>> load_model(path).sample(3).shape
        torch.Size([3, 64])
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"a model's file is a .safetensors, got {path}: name it so")
    if vae.built_from is None:
        raise InputError(
            "only a model that `build` made can say what it is built from: of this one save "
            "vae.state_dict(), put it together again and give it those weights"
        )
    of, data = vae.built_from["model"], vae.built_from["data"]["name"]
    return save_trained(Trained(vae, of, data, seed, beta, {}, history or History()), path)


def load_model(path: Path | str) -> VAE:
    """The model that `save_model`, or `fit` with a checkpoint, or a command has left in a file.

    It is on the CPU and needs no data. Of a checkpoint it is that of the best epoch.

    Raises:
        InputError: as `load_trained`.
    """
    return load_trained(path).vae


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
        built_from = about.get("built_from")
        model = about["model"] or (built_from or {}).get("model", "")
        data, history = about["data"], History(**about["history"])
        seed, beta, settings = about["seed"], about["beta"], about["settings"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not say what it is of, as files of this version do: train again"
        ) from error
    try:
        # A file of an earlier version knows its model by name alone.
        vae = _build_again(built_from) if built_from else assemble(model, outline(data))
        vae.load_state_dict(state)
        if model.partition("-k")[0] in FIRST_STAGE:
            vae = on_first_stage(vae, vae)
    except (InputError, RuntimeError, KeyError, TypeError, AttributeError) as error:
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
        "built_from": checkpoint.get("built_from"),
    }  # fmt: skip


def _build_again(built_from: dict[str, Any]) -> VAE:
    """A model that is built from the same, with new weights and no data."""
    # JSON has lists for tuples.
    of: dict[str, dict[str, Any]] = {
        part: {name: tuple(v) if isinstance(v, list) else v for name, v in built_from[part].items()}
        for part in ("sizes", "data")
    }
    return assemble(built_from["model"], blank(**of["data"]), Sizes(**of["sizes"]))


def save_trained(trained: Trained, path: Path) -> Path:
    """Write the weights, in full precision, and what is known of the run."""
    return write_weights(path, trained.vae.state_dict(), trained.about)
