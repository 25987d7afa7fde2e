"""Checkpoints: everything that a stopped run needs to end as if it had never stopped.

Example:
    >>> from pathlib import Path
    >>> from flowvae_tutorial import build, fit
    >>> from flowvae_tutorial.storage.checkpoints import load_checkpoint
    >>> from flowvae_tutorial.data import load
    >>> data, checkpoint = load("rings"), Path("checkpoint.pt")
    >>> history = fit(build("gaussian", data), data, epochs=1, checkpoint=checkpoint)
    >>> sorted(load_checkpoint(checkpoint))
    ['best', 'built_from', 'epochs', 'history', 'optimizer', 'run', 'vae']
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .schema import COUNT, NAME, NUMBER, NUMBERS, OBJECT, POSITIVE, TEXT, Form, breach, form
from .weights import read_tensors, write_tensors

# What `write_tensors` adds, and `read_tensors` looks at.
OF_ALL: Form = {"kind": {}, "format": {}, "sha256": {}}
SEED: Form = {"type": "integer"}
AT_LEAST_0: Form = NUMBER | {"minimum": 0}
ABOVE_0: Form = NUMBER | {"exclusiveMinimum": 0}
BELOW_1: Form = AT_LEAST_0 | {"exclusiveMaximum": 1}
SIZE: Form = COUNT | {"maximum": 2**31}
SIZES: Form = {"type": "array", "items": SIZE}
HISTORY = form(
    {
        "loss": NUMBERS, "reconstruction": NUMBERS, "kl": NUMBERS, "best_epoch": COUNT,
        "seconds": AT_LEAST_0,
    },
    # What nobody knows is NaN.
    {"median": {"type": "array", "items": {"type": ["number", "float"]}}},
)  # fmt: skip
BOUNDS: Form = {
    # Of each conditional Gaussian in turn, two each.
    "anyOf": [{"const": None}, {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 6}]
}
BUILT_FROM = form({
    "model": NAME,
    "sizes": form(
        {"latent": SIZE, "hidden": SIZES},
        {
            "components": SIZE, "pseudo_inputs": SIZE, "flow_hidden": SIZES, "transforms": SIZE,
        },
    ),
    "data": form(
        {"name": NAME, "features": SIZE, "likelihood": {"enum": ["bernoulli", "gaussian"]}},
        {
            "image_shape": {"type": ["array", "null"], "items": SIZE, "minItems": 2, "maxItems": 2},
            "checksum": NAME,
        },
    ),
}, {"log_scale_bounds": BOUNDS})  # fmt: skip
_RUN = OBJECT | {
    "properties": {
        "model": NAME, "data": NAME, "batch_size": POSITIVE, "lr": ABOVE_0, "beta": AT_LEAST_0,
        "clip": {"anyOf": [ABOVE_0, {"const": math.inf}]}, "warmup": COUNT, "patience": POSITIVE,
        "seed": SEED, "data_checksum": NAME, "parameters": {"type": "array", "items": TEXT},
        "decay": {"anyOf": [{"const": None}, {
            "type": "array", "prefixItems": [ABOVE_0 | {"maximum": 1}, POSITIVE], "minItems": 2,
            "maxItems": 2,
        }]},
    },
}  # fmt: skip
_RUN["required"] = list(_RUN["properties"])
# What an earlier version wrote lacks them, and had none.
_RUN["properties"]["log_scale_bounds"] = BOUNDS
# Of Adam; nothing else has been switched on.
_GROUP = OBJECT | {
    "properties": {
        "lr": AT_LEAST_0, "eps": AT_LEAST_0, "weight_decay": AT_LEAST_0,
        "betas": {"type": "array", "items": BELOW_1, "minItems": 2, "maxItems": 2},
        "params": {"type": "array", "items": COUNT}, "fused": {"type": ["boolean", "null"]},
    },
    "required": ["lr", "betas", "eps", "weight_decay", "params"],
    "additionalProperties": {"enum": [False, None]},
}  # fmt: skip
_ABOUT = form(
    {
        "run": _RUN, "epochs": POSITIVE, "history": HISTORY,
        "built_from": {"anyOf": [{"const": None}, BUILT_FROM]},
        "param_groups": {"type": "array", "items": _GROUP, "minItems": 1, "maxItems": 1},
    },
    OF_ALL,
)  # fmt: skip
_OF_ADAM = {"step", "exp_avg", "exp_avg_sq"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: it is there whole or not at all.

    Raises:
        InputError: the disk is full or not writable, or `load_checkpoint` would refuse the file.
            The checkpoint before is still there.
    """
    adam = state["optimizer"]
    parts = {"best": state["best"], "vae": state["vae"]}
    parts |= {f"optimizer.{index}": held for index, held in adam["state"].items()}
    tensors = {f"{part}.{name}": x for part, held in parts.items() for name, x in held.items()}
    about = {key: state[key] for key in ("run", "epochs", "history", "built_from")}
    about |= {"param_groups": adam["param_groups"]}
    # As it will be read.
    if (wrong := breach(_ABOUT, json.loads(json.dumps(about)))) is not None:
        raise InputError(f"{path} was not written, since nobody could go on from it: see {wrong}")
    write_tensors(path, "checkpoint", tensors, about)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; nothing in the file is executed.

    Raises:
        InputError: the file is missing, damaged, no checkpoint, or of another version of this
            package.
    """
    kind, tensors, about = read_tensors(path)
    if kind != "checkpoint":
        raise InputError(f"{path} holds the weights of a model alone: choose another file")
    return as_checkpoint(path, tensors, about)


def as_checkpoint(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> dict[str, Any]:
    """What `save_checkpoint` was given, of what `read_tensors` found in `path`.

    Raises:
        InputError: something is missing, of the wrong kind or contradicts the rest.
    """
    if (wrong := breach(_ABOUT, about) or contradiction(about["history"])) is not None:
        raise InputError(f"{path} is no checkpoint of this version, train again: see {wrong}")
    parts: dict[str, dict[str, Tensor]] = {"best": {}, "vae": {}}
    for name, x in tensors.items():
        part, _, rest = name.partition(".")
        if part == "optimizer":
            index, _, rest = rest.partition(".")
            part = f"{part}.{index}"
        parts.setdefault(part, {})[rest] = x
    # In JSON there are no tuples.
    run, (group,) = about["run"], about["param_groups"]
    run["decay"] = run["decay"] and tuple(run["decay"])
    group["betas"] = tuple(group["betas"])
    best, vae = parts.pop("best"), parts.pop("vae")
    shapes = {f"{name} {tuple(x.shape)}": x for name, x in vae.items()}
    adam = {i: held for i in group["params"] if (held := parts.pop(f"optimizer.{i}", None))}
    if (
        parts
        or forms(best) != forms(vae)
        or not shapes.keys() >= set(run["parameters"])
        or group["params"] != list(range(len(run["parameters"])))
        or not all(_fits(held, shapes[run["parameters"][i]]) for i, held in adam.items())
        or not 1 <= about["history"]["best_epoch"] <= len(about["history"]["loss"])
        or len(about["history"]["loss"]) > about["epochs"]
    ):
        raise InputError(
            f"{path} is no checkpoint of this version, its parts do not fit: train again"
        )
    return {
        "run": run, "epochs": about["epochs"], "history": about["history"], "best": best,
        "vae": vae, "optimizer": {"state": adam, "param_groups": [group]},
        "built_from": about["built_from"],
    }  # fmt: skip


def contradiction(history: dict[str, Any]) -> str | None:
    """What of a history that keeps to its schema cannot be true."""
    epochs = len(history["loss"])
    for name in ("reconstruction", "kl", "median"):
        if len(history.get(name, [])) not in {epochs, 0 if name == "median" else epochs}:
            return f"history/{name}: not {epochs} epochs, as loss has"
    late = history["best_epoch"] > epochs
    return f"history/best_epoch: {history['best_epoch']} of {epochs}" if late else None


def forms(state: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    """Of each tensor shape and dtype."""
    return {name: (x.shape, x.dtype) for name, x in state.items()}


def _fits(held: dict[str, Tensor], parameter: Tensor) -> bool:
    """Whether it is what Adam holds of this parameter."""
    return held.keys() == _OF_ADAM and forms(held) == forms(
        {"step": torch.zeros(())} | dict.fromkeys(["exp_avg", "exp_avg_sq"], parameter)
    )


def _differs(name: str, there: Any, here: Any) -> str:
    if name != "decay" or not there or not here or there[0] != here[0]:
        return name
    return f"epochs ({there[1]} there, {here[1]} here), on which a falling step size depends"


def load_checkpoint_of(run: dict[str, Any], path: Path, like: dict[str, Tensor]) -> dict[str, Any]:
    """Read a checkpoint that must belong to this run, of a model with a state like this.

    Raises:
        InputError: as `load_checkpoint`; or it is of another run, with what the two differ in.
    """
    state = load_checkpoint(path)
    held = state["run"]
    differs = [_differs(n, held.get(n), run[n]) for n in run if held.get(n) != run[n]]
    if not differs and forms(state["vae"]) != forms(like):
        differs = ["the model's state"]
    if differs:
        raise InputError(
            f"{path} is of another run, it differs in {', '.join(differs)}: "
            "choose another file or delete it"
        )
    return state
