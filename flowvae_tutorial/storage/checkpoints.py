"""Checkpoints: everything that a stopped run needs to end as if it had never stopped.

Example:
    >>> from pathlib import Path
    >>> from flowvae_tutorial import build, fit
    >>> from flowvae_tutorial.storage.checkpoints import load_checkpoint
    >>> from flowvae_tutorial.data import load
    >>> data, checkpoint = load("rings"), Path("checkpoint.pt")
    >>> history = fit(build("gaussian", data), data, epochs=1, checkpoint=checkpoint)
    >>> sorted(load_checkpoint(checkpoint))
    ['best', 'built_from', 'epochs', 'format', 'history', 'optimizer', 'run', 'vae']
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .files import write_whole

# Raised when a checkpoint gets another form.
FORMAT = 1
_PARTS = {"run", "history", "best", "vae", "optimizer"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: it is there whole or not at all.

    Raises:
        InputError: the disk is full or not writable. The checkpoint before is still there.
    """
    # Serialised in memory first, so that a full disk is an error of the system's, with its name.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; nothing in the file is executed.

    Raises:
        InputError: the file is damaged, no checkpoint, or of a newer version of this package.
        OSError: the system could not read it.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"there is no checkpoint {path}") from error
    try:
        # Torch compares no sums, so that a number that has changed would go unseen.
        with zipfile.ZipFile(content) as archive:
            if archive.testzip() is not None:
                raise ValueError("a sum is wrong")
        content.seek(0)
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        newer = int(state["format"]) > FORMAT
        if not newer and not state.keys() >= _PARTS:
            raise KeyError("a part is missing")
    except MemoryError:
        raise  # the file may be whole
    except Exception as error:  # a damaged file raises anything from EOFError to KeyError
        raise InputError(
            f"{path} is damaged or no checkpoint of this package: delete it to start again"
        ) from error
    if newer:
        raise InputError(
            f"{path} has format {state['format']}, this version reads up to {FORMAT}: update "
            "flowvae_tutorial"
        )
    return state


def load_checkpoint_of(run: dict[str, Any], path: Path) -> dict[str, Any]:
    """Read a checkpoint that must belong to this run.

    Raises:
        InputError: as `load_checkpoint`; or it is of another run, with what the two differ in.
    """
    state = load_checkpoint(path)
    # One of an earlier version has no checksum, and neither have the book's data.
    other = {"data_checksum": ""} | (state["run"] if isinstance(state["run"], dict) else {})
    differs = [name for name in run if other.get(name) != run[name]]
    if differs:
        raise InputError(
            f"{path} is of another run, it differs in {', '.join(differs)}: "
            "choose another file or delete it"
        )
    return state
