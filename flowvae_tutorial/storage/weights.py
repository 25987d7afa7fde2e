"""Weights of trained models as safetensors files that say what they are of."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from .files import write_whole

# Raised when the files get another form.
FORMAT = 1
# Beside a matrix in whole numbers, this holds what each of its rows is multiplied by.
_SCALE = ".scale"


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in a quarter of the room: matrices in 8 bits with one scale a row, the rest in half.

    `unpack` gives them back with an error of at most half a step, a 254th of the largest number
    of each row.

    Example:
        >>> import torch
        >>> from flowvae_tutorial.storage.weights import pack, unpack
        >>> weights = {"layer": torch.rand(10, 64)}  # at most 1
        >>> packed = pack(weights)
        >>> packed["layer"].dtype
        torch.int8
        >>> torch.allclose(unpack(packed)["layer"], weights["layer"], rtol=0, atol=1 / 250)
        True
    """
    packed = {}
    for name, value in state.items():
        if not value.is_floating_point():
            packed[name] = value
        elif value.ndim < 2:
            packed[name] = value.half()
        else:
            scale = (value.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-12)
            packed[name] = (value / scale).round().to(torch.int8)
            packed[name + _SCALE] = scale
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in single precision from what `pack` made; half precision becomes single too."""
    state = {}
    scales = {
        name + _SCALE: packed[name + _SCALE]
        for name, value in packed.items()
        if value.dtype == torch.int8 and name + _SCALE in packed
    }
    for name, value in packed.items():
        if name + _SCALE in scales:
            state[name] = value.float() * scales[name + _SCALE]
        elif name not in scales:
            state[name] = value.float() if value.dtype == torch.half else value
    return state


def write_weights(path: Path, state: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """Write weights and what there is to say about them: the file is there whole or not at all.

    Raises:
        InputError: the disk is full or not writable.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    about = {"format": FORMAT, **about}
    about["sha256"] = _sum(contiguous, about)
    return write_whole(path, save(contiguous, {"flowvae_tutorial": json.dumps(about)}))


def _sum(state: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Of all that a file says but this sum: safetensors has none."""
    said = {key: value for key, value in about.items() if key != "sha256"}
    sum_ = hashlib.sha256(json.dumps(said).encode())
    for name in sorted(state):
        sum_.update(name.encode() + state[name].numpy().tobytes())
    return sum_.hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_weights` wrote, unpacked, and what it says of itself.

    Raises:
        InputError: the file is missing, damaged, not of this package or of a newer version.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["flowvae_tutorial"])
            state = {name: file.get_tensor(name) for name in file.keys()}
        newest = int(about["format"])
        if newest <= FORMAT and about.get("sha256") not in (None, _sum(state, about)):
            raise ValueError("the sum is wrong")
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged or no weights file of this package") from error
    if newest > FORMAT:
        raise InputError(
            f"{path} has format {newest}, this version reads up to {FORMAT}: update "
            "flowvae_tutorial"
        )
    return unpack(state), about
