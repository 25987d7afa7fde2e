"""What has to be downloaded: the MNIST family, kept in a cache folder and checked by its sums."""

import contextlib
import hashlib
import io
import os
import time
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from gzip import GzipFile
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from ..errors import InputError
from .files import write_whole


def cache_folder() -> Path:
    """Where downloads go: `$FLOWVAE_DATA` if it is set, else the platform's cache folder.

    Raises:
        InputError: it lies in a home folder that nobody knows.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> from flowvae_tutorial.storage.downloads import cache_folder
        >>> with patch.dict(os.environ, FLOWVAE_DATA="downloads"):
        ...     print(cache_folder())
        downloads
    """
    chosen = os.environ.get("FLOWVAE_DATA")
    try:
        # Some versions of platformdirs leave a ~ that they cannot replace.
        return (Path(chosen) if chosen else user_cache_path("flowvae-tutorial")).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{chosen or 'the cache'} lies in a home folder that is not to be found: set "
            "FLOWVAE_DATA to a folder for downloads"
        ) from error


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# Of each of these files: the bytes of its .gz, and the SHA-256 sum of what is in it.
MNIST_SUMS = {
    "MNIST": (
        (9_912_422, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        (28_881, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        (1_648_877, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        (4_542, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
    "FashionMNIST": (
        (26_421_880, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        (29_515, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        (4_422_102, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        (5_148, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}
MIRRORS = {
    "MNIST": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "FashionMNIST": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
}
# No file of the family holds more, packed or not: a header and 60,000 images.
LARGEST = 16 + 60_000 * 784
# Seconds that a server may be silent, and that it may take for a file.
SILENCE, PATIENCE = 30.0, 1800.0


def mnist(kind: Literal["MNIST", "FashionMNIST"]) -> list[tuple[Tensor, Tensor]]:
    """Pixels in [0, 1], `(N, 784)`, and labels `(N,)`, of the training and of the test images.

    Raises:
        InputError: the files are neither in the cache nor to be had, or damaged.
    """
    parts = []
    for part in ("train", "t10k"):
        # After a header of 16 bytes, and of 8.
        images = np.frombuffer(_idx_file(kind, f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
        labels = np.frombuffer(_idx_file(kind, f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
        pixels = torch.tensor(images).view(-1, 784).float() / 255
        parts.append((pixels, torch.tensor(labels).long()))
    return parts


def _idx_file(kind: str, name: str) -> bytes:
    """What is in a file of the cache, unpacked there or not, else in one of a mirror's."""
    folder = cache_folder() / kind / "raw"
    size, sha256 = MNIST_SUMS[kind][IDX_FILES.index(name)]
    plain, packed = folder / name, folder / f"{name}.gz"

    def right(content: bytes) -> bytes:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OSError(f"not {kind}'s: its SHA-256 sum is another")
        return content

    def unpacked(content: bytes) -> bytes:
        try:
            return right(GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1))
        except (EOFError, zlib.error) as error:
            raise OSError("a damaged .gz") from error

    wrong = []
    for path, read in ((plain, right), (packed, unpacked)):
        try:
            if path.is_file():
                with path.open("rb") as file:
                    content = read(file.read(LARGEST + 1))
                if path == packed:
                    # Where it cannot be written it is unpacked each time.
                    with contextlib.suppress(InputError):
                        write_whole(plain, content)
                return content
        except OSError as error:
            wrong.append(f"{path}: {_reason(error)}")
    addresses = [mirror + packed.name for mirror in MIRRORS[kind]]
    try:
        content = _download(addresses, size, unpacked)
    except OSError as error:
        raise _not_to_be_had(kind, folder, "the four idx .gz files", [*wrong, error]) from error
    write_whole(plain, content)
    return content


def _download(addresses: Sequence[str], size: int, check: Callable[[bytes], bytes]) -> bytes:
    """What `check` makes of the file at the first address that has the right one.

    Raises:
        OSError: none has: it says of each why.
    """
    reasons = []
    for address in addresses:
        request = urllib.request.Request(address, headers={"User-Agent": "flowvae-tutorial"})
        end = time.monotonic() + PATIENCE
        content = bytearray()
        try:
            with urllib.request.urlopen(request, timeout=SILENCE) as answer:
                # What has come so far, where `read` would wait for all that was asked for.
                while more := answer.read1(1 << 20):
                    content += more
                    if len(content) > size:
                        raise OSError(f"more than the {size} bytes that it has")
                    if time.monotonic() > end:
                        raise OSError(f"not all there after {PATIENCE:g} seconds")
            return check(bytes(content))
        except (OSError, HTTPException) as error:
            reasons.append(f"{address}: {_reason(error)}")
    raise OSError("; ".join(reasons))


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
        packed = {part: _amat(part, cache.parent) for part in STATIC_MNIST_SUMS}
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
        if not cache.is_file():
            return None
        # Opened here: np.load leaves a file open that it cannot read.
        with cache.open("rb") as file:
            if sum(member.file_size for member in ZipFile(file).infolist()) > LARGEST:
                return None
            with np.load(file, allow_pickle=False) as stored:
                packed = {part: stored[part].reshape(-1, 98) for part in STATIC_MNIST_SUMS}
    except Exception:  # a damaged zip raises anything from BadZipFile to zlib.error
        return None
    sums = {part: hashlib.sha256(rows.tobytes()).hexdigest() for part, rows in packed.items()}
    return packed if all(sums[p] == STATIC_MNIST_SUMS[p][1] for p in sums) else None


def _amat(part: str, folder: Path) -> Any:
    """The pixels of a text file in the cache, else of one that is downloaded, eight to a byte."""
    file = folder / f"binarized_mnist_{part}.amat"

    def right(content: bytes) -> bytes:
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != STATIC_MNIST_SUMS[part][0]:
            raise OSError("its MD5 sum is another")
        return content

    size = 50_000 * 2 * 784  # of the longest
    try:
        with file.open("rb") as text:
            content = right(text.read(size + 1))
    except OSError:
        try:
            content = _download([STATIC_MNIST + file.name], size, right)
        except OSError as error:
            what = "binarized_mnist_train.amat, _valid.amat and _test.amat"
            raise _not_to_be_had("static MNIST", folder, what, [error]) from error
        write_whole(file, content)
    digits = np.frombuffer(content, dtype=np.uint8)
    return np.packbits(digits.reshape(-1, 2 * 784)[:, ::2] - ord("0"), axis=1)


def _packed_file(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(said).splitlines()[0]


def _not_to_be_had(
    what: str, folder: Path, files: str, reasons: Sequence[str | Exception]
) -> InputError:
    why = "; ".join(r if isinstance(r, str) else _reason(r) for r in reasons)
    return InputError(
        f"{what} is not to be had ({why}): put {files} into {folder}, delete what is damaged "
        "there, or use the data set 'digits', which needs no download"
    )
