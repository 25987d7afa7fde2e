"""Weights of trained models as safetensors files that say what they are of.

Checkpoints are such files, too: there is one way to write and to read both.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..errors import InputError
from .files import LARGEST, read_whole, write_whole

Kind = Literal["weights", "checkpoint"]
# Raised when the files get another form. Format 1 was of weights alone.
FORMAT = 2
_KEY = "flowvae_tutorial"
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
        if value.dtype == torch.int8
        and name + _SCALE in packed
        and packed[name + _SCALE].shape == (*value.shape[:-1], 1)
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
    return write_tensors(path, "weights", state, about)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_weights` wrote, unpacked, and what it says of itself.

    Raises:
        InputError: as `read_tensors`, or it is a checkpoint.
    """
    kind, state, about = read_tensors(path)
    if kind != "weights":
        raise InputError(f"{path} is a {kind} and no weights file: name another file")
    return unpack(state), about


def write_tensors(
    path: Path, kind: Kind, tensors: dict[str, Tensor], about: dict[str, Any]
) -> Path:
    """Write tensors and what there is to say about them, with a sum over all of it.

    Raises:
        InputError: the disk is full or not writable, or nobody would read so long a file.
    """
    # Copies: safetensors takes no two that share their memory, as tied weights do.
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    # The kind stands in front, where it is found in a damaged file, too.
    about = {"kind": kind, "format": FORMAT, **about}
    about["sha256"] = _sum(copies, about)
    content = save(copies, {_KEY: json.dumps(about)})
    if len(content) > LARGEST:
        raise InputError(
            f"{path} would have more than {LARGEST / 2**30:g} GiB: make a smaller model"
        )
    return write_whole(path, content)


def _sum(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Of all that a file says but this sum: safetensors has none."""
    said = {key: value for key, value in about.items() if key != "sha256"}
    sum_ = hashlib.sha256(json.dumps(said).encode())
    for name in sorted(tensors):
        value = tensors[name]
        form = f"{value.dtype} {tuple(value.shape)}" if about["format"] > 1 else ""
        sum_.update((name + form).encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sum_.hexdigest()


def read_tensors(path: Path) -> tuple[Kind, dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, and of which kind it is. Nothing in the file is executed.

    Raises:
        InputError: the file is missing, not to be read, damaged, not of this package, or of another
            version.
    """
    content = read_whole(path)
    if content.startswith(b"PK"):
        raise InputError(
            f"{path} is a file of torch.save's, and reading those may run what is in them: if it "
            "is a checkpoint of an earlier version, go on with that or train again under another "
            "name"
        )
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8:end].decode())["__metadata__"][_KEY])
        kind, form = about.get("kind", "weights"), about["format"]
        if type(form) is not int or form < 1 or kind not in ("weights", "checkpoint"):
            raise ValueError("no format of ours")
        if form <= FORMAT:
            tensors = load(content)
            # The first weights had no sum.
            sum_ = about["sha256"] if form > 1 else about.get("sha256")
            if sum_ is not None and sum_ != _sum(tensors, about):
                raise ValueError("the sum is wrong")
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory") from error
    except Exception as error:  # a damaged file raises anything from KeyError to SafetensorError
        ours = b'\\"kind\\": \\"checkpoint\\"' in content[:100]
        raise InputError(
            f"{path} is damaged: delete it to start again"
            if ours
            else f"{path} is damaged or no checkpoint or weights file of this package"
        ) from error
    if form > FORMAT:
        raise InputError(
            f"{path} has format {form}, this version reads up to {FORMAT}: update flowvae_tutorial"
        )
    return kind, tensors, about
