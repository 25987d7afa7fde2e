"""Models trained on MNIST, shipped with the package: real samples with no data and no training."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..storage.trained import Trained, load_trained
from ..vae import VAE

FOLDER = Path(__file__).parent


def pretrained_models() -> dict[str, dict[str, Any]]:
    """What there is: for each name the file's SHA-256 and size, and what packing has cost."""
    models: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text("utf-8"))
    return models


def load_pretrained(name: str) -> VAE:
    """A model trained on dynamically binarised MNIST, on the CPU; `card(name)` describes it.

    Args:
        name: one of `pretrained_models()`.

    Raises:
        InputError: no such name, or the file is not the one that was shipped.

    Example:
        >>> from flowvae_tutorial import load_pretrained
        >>> vae = load_pretrained("vampprior")
        >>> vae.sample(3, mean=True).shape  # three digits of 28 by 28 pixels
        torch.Size([3, 784])
    """
    return pretrained_run(name).vae


def pretrained_run(name: str) -> Trained:
    """As `load_pretrained`, with what is known of the run.

    Raises:
        InputError: no such name, or the file is not the one that was shipped.
    """
    path = FOLDER / f"{name}.safetensors"
    models = pretrained_models()
    if name not in models:
        raise InputError(f"no pretrained model named {name!r}: choose one of {', '.join(models)}")
    if not path.is_file() or _sum(path) != models[name]["sha256"]:
        raise InputError(f"{path} is not the file that was shipped: install the package again")
    return load_trained(path)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card(name: str) -> str:
    """The model's card, Markdown: data, figures, licence, intended use.

    Raises:
        InputError: no such name.
    """
    if name not in pretrained_models():
        names = ", ".join(pretrained_models())
        raise InputError(f"no pretrained model named {name!r}: choose one of {names}")
    return (FOLDER / f"{name}.md").read_text("utf-8")
