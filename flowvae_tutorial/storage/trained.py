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

import json
import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..data import DATA_SETS, Data, blank, outline
from ..errors import InputError
from ..history import History
from ..models import FIRST_STAGE, Sizes, assemble, resolve
from ..networks import UNBOUNDED
from ..stages import on_first_stage
from ..vae import VAE
from .checkpoints import (
    AT_LEAST_0,
    BUILT_FROM,
    HISTORY,
    OF_ALL,
    SEED,
    as_checkpoint,
    contradiction,
)
from .schema import NAME, breach, form
from .weights import read_tensors, unpack, write_weights

_ABOUT = form(
    {
        "model": NAME, "data": NAME, "seed": SEED, "beta": AT_LEAST_0, "history": HISTORY,
        "settings": {"type": "object", "additionalProperties": {"type": ["number", "float"]}},
    },
    {"built_from": {"anyOf": [{"const": None}, BUILT_FROM]}} | OF_ALL,
)  # fmt: skip


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
    kind, state, about = read_tensors(path)
    if kind == "checkpoint":
        checkpoint = as_checkpoint(path, state, about)
        state, about = checkpoint["best"], _about_of(checkpoint)
    else:
        state = unpack(state)
    if (wrong := breach(_ABOUT, about) or contradiction(about["history"])) is not None:
        raise InputError(
            f"{path} does not say what it is of, as files of this version do, train again: see "
            f"{wrong}"
        )
    built_from = about.get("built_from")
    model, data = about["model"] or (built_from or {}).get("model", ""), about["data"]
    for name, value in state.items():
        if not value.isfinite().all():
            raise InputError(f"{path} has NaN or infinite weights in {name!r}: train again")
    try:
        vae = _build_again(model, data, built_from, sum(x.numel() for x in state.values()))
        given, wanted = (
            {name: (x.shape, x.is_floating_point()) for name, x in each.items()}
            for each in (state, vae.state_dict())
        )
        if given != wanted:
            first = next(n for n in [*wanted, *given] if given.get(n) != wanted.get(n))
            raise InputError(f"{first!r} is of another size or kind, too much or missing")
        had = (built_from or {}).get("log_scale_bounds")
        if had is None:
            vae = unbounded(vae)
        elif had != (bounds := (vae.built_from or {})["log_scale_bounds"]):
            raise InputError(f"the bounds of log σ were {had} and are {bounds}, train again")
        vae.load_state_dict(state)
        if model.partition("-k")[0] in FIRST_STAGE:
            vae = on_first_stage(vae, vae)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} is of the model {model!r} for {data!r}, which this version does not build "
            f"like that: {str(error).splitlines()[-1]}"
        ) from error
    return Trained(
        vae.eval(), model, data, about["seed"], about["beta"], about["settings"],
        History(**about["history"]),
    )  # fmt: skip


def _about_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a weights file of the same run would say."""
    run = checkpoint["run"]
    settings = {name: run[name] for name in ("batch_size", "lr", "warmup", "patience")}
    if run["clip"] < math.inf:
        settings["clip"] = run["clip"]
    if run["decay"]:
        settings["decay"], settings["epochs"] = run["decay"]
    else:
        settings["epochs"] = checkpoint["epochs"]
    return {
        "model": run["model"], "data": run["data"], "seed": run["seed"], "beta": run["beta"],
        "settings": settings, "history": checkpoint["history"],
        "built_from": checkpoint["built_from"],
    }  # fmt: skip


def _build_again(model: str, data: str, built_from: dict[str, Any] | None, numbers: int) -> VAE:
    """A model that is built from the same, with new weights and no data.

    Raises:
        InputError: it cannot be built, or would have more numbers than the file.
    """
    if built_from is None:
        # A file of an earlier version knows its model by name alone.
        form = outline(data)
        sizes = resolve(model, form)[1]
        features = form.features
    else:
        # JSON has lists for tuples.
        of: dict[str, dict[str, Any]] = {
            part: {n: tuple(v) if isinstance(v, list) else v for n, v in built_from[part].items()}
            for part in ("sizes", "data")
        }
        model, sizes, features = built_from["model"], Sizes(**of["sizes"]), of["data"]["features"]
    # Before anything is built: a file of 10 kB may name a model of a terabyte.
    if (least := least_numbers(model, sizes, features)) > numbers:
        raise InputError(f"it has at least {least} numbers, and the file {numbers}")
    return assemble(model, blank(**of["data"]) if built_from else form, sizes)


def unbounded(vae: VAE) -> VAE:
    """The same model without bounds of log σ, as its weights want it if they are from before."""
    for part in vae.modules():
        if "log_scale_bounds" in vars(part):
            vars(part)["log_scale_bounds"] = UNBOUNDED
    vae.built_from = (vae.built_from or {}) | {"log_scale_bounds": None}
    return vae


def least_numbers(model: str, sizes: Sizes, features: int) -> int:
    """A number that no model of these sizes falls short of, nor exceeds a thousandfold."""

    def layers(*widths: int) -> int:
        return sum(a * b for a, b in pairwise(widths))

    least = layers(features, *sizes.hidden, sizes.latent)
    if "vampprior" in model:
        least += sizes.pseudo_inputs * features
    if model.startswith("mixture"):
        least += sizes.components * sizes.latent
    if "matching" in model:
        least += layers(*sizes.flow_hidden)
    elif "flow" in model:
        least += sizes.transforms * max(1, layers(*sizes.flow_hidden))
    return least


def save_trained(trained: Trained, path: Path) -> Path:
    """Write the weights, in full precision, and what is known of the run.

    Raises:
        InputError: `load_trained` would refuse what is known, or the disk is full or not writable.
    """
    if (wrong := breach(_ABOUT, json.loads(json.dumps(trained.about)))) is not None:
        raise InputError(f"{path} was not written, since nobody could read it: see {wrong}")
    return write_weights(path, trained.vae.state_dict(), trained.about)
