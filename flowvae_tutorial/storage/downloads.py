"""What has to be downloaded: the MNIST family, kept in a cache folder and checked by its sums."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from ..errors import InputError
from .files import write_whole


def cache_folder() -> Path:
    """Where downloads go: `$FLOWVAE_DATA` if it is set, else the platform's cache folder.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> from flowvae_tutorial.storage.downloads import cache_folder
        >>> with patch.dict(os.environ, FLOWVAE_DATA="downloads"):
        ...     print(cache_folder())
        downloads
    """
    chosen = os.environ.get("FLOWVAE_DATA")
    return Path(chosen) if chosen else user_cache_path("flowvae-tutorial")


def _torchvision_datasets() -> Any:
    """Import `torchvision.datasets` even where torchvision's compiled operators do not load.

    A torchvision built for CUDA beside a torch built for CPU lacks two operators and refuses to
    import. The data sets use neither: declaring their signatures is enough.
    """
    try:
        from torchvision import datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # The declarations end with the object that made them.
        _torchvision_datasets.library = library  # type: ignore[attr-defined]
        from torchvision import datasets
    return datasets


def mnist(kind: Literal["MNIST", "FashionMNIST"]) -> list[tuple[Tensor, Tensor]]:
    """Pixels in [0, 1], `(N, 784)`, and labels `(N,)`, of the training and of the test images.

    Raises:
        InputError: the files are neither in the cache nor to be had, or damaged.
    """
    folder = cache_folder()
    try:
        parts = [
            getattr(_torchvision_datasets(), kind)(str(folder), train=train, download=True)
            for train in (True, False)
        ]
    # A half-written file surfaces as any of these in torchvision's reader.
    except (
        RuntimeError, OSError, AssertionError, ValueError, EOFError, KeyError, TypeError
    ) as error:  # fmt: skip
        raise _not_to_be_had(
            kind, folder / kind / "raw", "the four idx .gz files", error
        ) from error
    return [(part.data.flatten(1).float() / 255, part.targets) for part in parts]


# Larochelle's fixed binarisation. The MD5 sums are of the text files as published; the SHA-256
# sums are of the same pixels packed eight to a byte, which is what the cache holds.
STATIC_MNIST = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
STATIC_MNIST_SUMS = {
    "train": (
        "db28b1a6ae0fe70cbd3da91acf46e477",
        "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    ),
    "valid": (
        "bf37822a04e94123630de6a7dfd9c9ef",
        "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    ),
    "test": (
        "14e41ae11040adba6ab8cb291eda0dd8",
        "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
    ),
}


def static_mnist() -> list[Tensor]:
    """Larochelle's binarised training, validation and test images, `(N, 784)` each.

    Raises:
        InputError: the files are neither in the cache nor to be had.
    """
    cache = cache_folder() / "binarized_mnist" / "binarized_mnist.npz"
    packed = _read_packed(cache)
    if packed is None:
        packed = {part: _download_amat(part, cache.parent) for part in STATIC_MNIST_SUMS}
        write_whole(cache, _packed_file(packed))
        for part in STATIC_MNIST_SUMS:
            (cache.parent / f"binarized_mnist_{part}.amat").unlink(missing_ok=True)
    return [
        torch.from_numpy(np.unpackbits(packed[part], axis=1)[:, :784]).float()
        for part in STATIC_MNIST_SUMS
    ]


def _read_packed(cache: Path) -> dict[str, Any] | None:
    """The cached pixels, or None if they are missing or damaged, so that they are fetched again."""
    try:
        # Opened here: np.load leaves a file open that it cannot read.
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            packed = {part: stored[part] for part in STATIC_MNIST_SUMS}
    except Exception:  # a damaged zip raises anything from BadZipFile to zlib.error
        return None
    sums = {part: hashlib.sha256(rows.tobytes()).hexdigest() for part, rows in packed.items()}
    return packed if all(sums[p] == STATIC_MNIST_SUMS[p][1] for p in sums) else None


def _download_amat(part: str, folder: Path) -> Any:
    _torchvision_datasets()
    from torchvision.datasets.utils import download_url

    file = f"binarized_mnist_{part}.amat"
    try:
        download_url(STATIC_MNIST + file, str(folder), file, md5=STATIC_MNIST_SUMS[part][0])
    except (RuntimeError, OSError) as error:
        what = "binarized_mnist_train.amat, _valid.amat and _test.amat"
        raise _not_to_be_had("static MNIST", folder, what, error) from error
    text = np.frombuffer((folder / file).read_bytes(), dtype=np.uint8)
    return np.packbits(text.reshape(-1, 2 * 784)[:, ::2] - ord("0"), axis=1)


def _packed_file(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _not_to_be_had(what: str, folder: Path, files: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{what} could not be downloaded ({reason}): put {files} into {folder}, delete what is "
        "damaged there, or use the data set 'digits', which needs no download"
    )
