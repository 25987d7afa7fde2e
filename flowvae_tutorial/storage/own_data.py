"""Your own data: from arrays, or a file of them, to a `Data` that models and commands take."""

import hashlib
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data import DATA_SETS, Data, load, unchanged
from ..errors import InputError

# Of a file's arrays, unpacked and in single precision.
LARGEST = 4 * 2**30
# Below it, what `weights_only` unpickles has run code (the first fix came with 2.6, a second here).
PICKLES_HOLD = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10)
LABELS = {"train": "labels", "validation": "validation_labels", "test": "test_labels"}


def own_data(
    x: Tensor | np.ndarray[Any, Any],
    name: str = "own",
    *,
    likelihood: Literal["bernoulli", "gaussian"] | None = None,
    validation: Tensor | np.ndarray[Any, Any] | float = 0.1,
    test: Tensor | np.ndarray[Any, Any] | float = 0.2,
    labels: Tensor | np.ndarray[Any, Any] | Mapping[str, Any] | None = None,
    image_shape: tuple[int, int] | None = None,
    batch: Callable[[Tensor], Tensor] | None = None,
) -> Data:
    """Your own pictures or points, split, looked at, and ready for `build` and `fit`.

    Pixels end in single precision and in [0, 1]. Bytes are divided by 255, unless all of them are
    0 or 1. Nothing else is scaled: floating-point pixels lie in [0, 1] already, and whole numbers
    of another type are 0 or 1.

    Args:
        x: pictures `(N, H, W)` or `(N, 1, H, W)`, or rows `(N, X)`.
        name: of runs and records.
        likelihood: "bernoulli" or "gaussian"; by default Bernoulli if all that a model will see
            is 0 or 1, else Gaussian.
        validation: examples of their own, or the share of x that is split off, by a fixed seed.
        test: the same.
        labels: whole numbers `(N,)`, of x; or a dict with those of "train" (of x, that is), and of
            "validation" and "test" where these are examples of their own.
        image_shape: `(H, W)` of rows that are pictures.
        batch: what is drawn anew for each batch: `torch.bernoulli` for pixels that are
            probabilities. Validation and test examples go through it once, with a fixed seed.

    Raises:
        InputError: one line for all that is wrong with the data.

    Example:
        >>> import numpy as np
        >>> from flowvae_tutorial import own_data
        >>> pictures = np.random.RandomState(0).randint(256, size=(100, 8, 8), dtype=np.uint8)
        >>> data = own_data(pictures, "noise")
        >>> data.train.shape, data.image_shape, data.likelihood
        (torch.Size([70, 64]), (8, 8), 'gaussian')
    """
    if name in DATA_SETS or not name or Path(name).name != name:
        raise InputError(
            f"{name!r} cannot be the name of your data: take one that is no path and none of "
            f"{', '.join(DATA_SETS)}"
        )
    held = {"validation": validation, "test": test}
    shares = {part: s for part, s in held.items() if isinstance(s, int | float)}
    given = {"train": x} | {part: s for part, s in held.items() if part not in shares}
    found = {part: _tensor(part, each) for part, each in given.items()}
    shapes = {part: _image_shape(part, each) for part, each in found.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the parts have pictures of different shapes: {shapes}")
    image_shape = image_shape or shapes["train"]
    parts = _scaled({part: each.detach().cpu().flatten(1) for part, each in found.items()})
    for part, each in parts.items():
        _look_at(part, each, pixels=image_shape is not None or likelihood == "bernoulli")
    classes = _labels(labels, parts)
    pieces = _pieces(len(parts["train"]), shares)
    parts |= {part: parts["train"][rows] for part, rows in pieces.items()}
    if "train" in classes:
        classes |= {part: classes["train"][rows] for part, rows in pieces.items()}
    few = [f"{part} has {len(each)}" for part, each in parts.items() if len(each) < 2]
    if few:
        raise InputError(f"too few examples: {', '.join(few)}; each part needs 2 at the very least")
    seen = _as_seen(parts, batch)
    parts |= {part: seen[part] for part in ("validation", "test")}
    binary = all(bool(((each == 0) | (each == 1)).all()) for each in seen.values())
    if likelihood == "bernoulli" and not binary:
        raise InputError(
            "a Bernoulli likelihood takes pixels that are 0 or 1, and these lie between: threshold "
            "them (x > 0.5), pass batch=torch.bernoulli to draw them anew for each batch, or take "
            "likelihood='gaussian'"
        )
    data = Data(
        name, parts["train"], parts["validation"], parts["test"], labels=classes,
        likelihood=likelihood or ("bernoulli" if binary else "gaussian"),
        image_shape=image_shape, batch=batch or unchanged,
    )  # fmt: skip
    return replace(data, checksum=_sum(data)).to(found["train"].device)


def _tensor(part: str, x: Any) -> Tensor:
    """A plain tensor of numbers with one example a row at least."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        # In this machine's byte order, and a copy: torch warns of arrays that are read only.
        x = torch.tensor(x.astype(x.dtype.newbyteorder("=")))
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_meta or x.is_complex():
        raise InputError(
            f"{part} must be a tensor or a NumPy array of numbers, got "
            f"{getattr(x, 'dtype', type(x).__name__)}: np.stack makes one of a list of pictures, "
            "np.loadtxt of a table in a text file"
        )
    return x


def _image_shape(part: str, x: Tensor) -> tuple[int, int] | None:
    if x.ndim == 2 and x.shape[1] > 0:
        return None
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[1] != 1) or 0 in x.shape[1:]:
        raise InputError(
            f"{part} has shape {tuple(x.shape)}: give grey pictures (N, H, W) or (N, 1, H, W), or "
            "rows (N, X); colours, too, fit into rows, x.reshape(len(x), -1)"
        )
    return x.shape[-2], x.shape[-1]


def _scaled(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in single precision; bytes in [0, 1]."""
    whole = {part: x for part, x in parts.items() if not x.is_floating_point()}
    if all(((x == 0) | (x == 1)).all() for x in whole.values()):
        return {part: x.to(torch.float32, copy=True) for part, x in parts.items()}
    for part, x in whole.items():
        if x.dtype != torch.uint8:
            raise InputError(
                f"{part} holds whole numbers, {x.dtype}, from {x.min()} to {x.max()}: scale them "
                "to [0, 1], x / 255 for pictures of 8 bits"
            )
    return {
        part: x.float() / 255 if part in whole else x.to(torch.float32, copy=True)
        for part, x in parts.items()
    }


def _look_at(part: str, x: Tensor, pixels: bool) -> None:
    if not x.isfinite().all():
        raise InputError(
            f"{part} has values that are NaN, infinite or too large for single precision: "
            "clean or scale the data first"
        )
    if pixels and len(x) and not 0 <= x.min() <= x.max() <= 1:
        raise InputError(
            f"{part} has values from {x.min():.4g} to {x.max():.4g}, and pixels lie in [0, 1]: "
            "divide by 255, or take (x - x.min()) / (x.max() - x.min())"
        )


def _labels(labels: Any, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the parts that are given, `(N,)` each."""
    if not isinstance(labels, Mapping):
        labels = {} if labels is None else {"train": labels}
    found = {}
    for part, given in labels.items():
        if part not in parts:
            raise InputError(f"labels of {part!r}, but the examples given are {', '.join(parts)}")
        each = _tensor(f"{part}'s labels", given)
        if each.is_floating_point() or tuple(each.shape) != (len(parts[part]),):
            raise InputError(
                f"{part}'s labels must be {len(parts[part])} whole numbers, one for each example, "
                f"got {each.dtype} {tuple(each.shape)}"
            )
        found[part] = each.detach().cpu().long()
    return found


def _pieces(examples: int, shares: dict[str, float]) -> dict[str, Tensor]:
    """The rows of x that are of each part, train among them."""
    if not all(0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise InputError(
            f"validation and test are shares of x between 0 and 1, together less than 1, got "
            f"{shares}: training stops early by the one, and the other is for the figures; or give "
            "examples of their own"
        )
    if not shares:
        return {}
    # The stream of numpy's RandomState is frozen for good, so the split never changes.
    order = torch.from_numpy(np.random.RandomState(0).permutation(examples))
    counts = [round(share * examples) for share in shares.values()]
    rows = order.split([examples - sum(counts), *counts])
    return dict(zip(("train", *shares), rows, strict=True))


def _as_seen(
    parts: dict[str, Tensor], batch: Callable[[Tensor], Tensor] | None
) -> dict[str, Tensor]:
    """What a model will see: each part once through `batch`, with a fixed seed."""
    if batch is None:
        return parts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return {part: batch(parts[part]) for part in ("validation", "test", "train")}
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"batch does not take the examples: {reason}") from error


def _sum(data: Data) -> str:
    sum_ = hashlib.sha256(repr((data.likelihood, data.image_shape)).encode())
    for x in (data.train, data.validation, data.test):
        sum_.update(repr(tuple(x.shape)).encode())
        sum_.update(x.contiguous().numpy().data)
    return sum_.hexdigest()


# --- from files -------------------------------------------------------------------------------


def is_file(name: str) -> bool:
    """Whether the name of a data set is that of a file of yours."""
    return name.endswith((".npz", ".pt"))


def load_data(name: str) -> Data:
    """A data set of the book's, or that of a `.npz` or `.pt` file of yours, named as the file is.

    The file holds `train` and, if they are examples of their own, `validation` and `test`, as
    `own_data` takes them; `labels`, `validation_labels`, `test_labels` are there or not. One array
    alone is `train`, whatever it is called; in a `.pt` it need not be in a dict.

    Raises:
        InputError: no such data set; or the file is missing, damaged, too large, holds something
            else or what `own_data` refuses; or it is a `.pt` and torch is older than 2.10.
    """
    if not is_file(name):
        return load(name)
    path = Path(name)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    arrays = _read(path)
    of = {part: key for part, key in LABELS.items() if key in arrays}
    examples = arrays.keys() - of.values()
    if len(examples) == 1:
        arrays["train"] = arrays[examples.pop()]
    elif "train" not in examples or not examples <= LABELS.keys():
        raise InputError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: save one array, or `train` "
            f"with `validation`, `test`, {', '.join(f'`{key}`' for key in LABELS.values())}"
        )
    parts = {part: arrays[part] for part in ("validation", "test") if part in arrays}
    try:
        return own_data(
            arrays["train"], path.stem, labels={p: arrays[key] for p, key in of.items()}, **parts
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """The arrays by name; nothing in the file is executed, or unpacked if it is too large."""
    if path.suffix == ".pt" and not PICKLES_HOLD:
        raise InputError(
            f"{path} is not opened, since what is in it could run on torch {torch.__version__}: "
            "update torch to 2.10 at least, or save the arrays by np.savez"
        )
    try:
        size = path.stat().st_size
        if path.suffix == ".npz" or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
                _bound(path, size)
                if archive.testzip() is not None:
                    raise ValueError("a sum is wrong")
        _bound(path, size)
        if path.suffix == ".npz":
            # Opened here: np.load leaves a file open that it cannot read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        else:
            arrays = torch.load(path, map_location="cpu", weights_only=True)
    except (InputError, OSError):
        raise
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory") from error
    except Exception as error:  # a damaged file raises anything from BadZipFile to KeyError
        raise InputError(
            f"{path} is damaged, or holds objects that only pickle reads, which could run "
            "anything: save arrays of numbers, by np.savez or torch.save"
        ) from error
    if isinstance(arrays, Tensor):
        arrays = {"train": arrays}
    if not isinstance(arrays, dict) or not all(isinstance(key, str) for key in arrays):
        raise InputError(f"{path} holds a {type(arrays).__name__}: save a tensor or a dict of them")
    # A tensor may repeat its few numbers, an array hold small ones.
    _bound(path, 4 * sum(math.prod(getattr(x, "shape", ())) for x in arrays.values()))
    return arrays


def _bound(path: Path, size: int) -> None:
    if size > LARGEST:
        raise InputError(
            f"{path} holds {size / 2**30:.1f} GiB of numbers, more than {LARGEST / 2**30:.0f}: "
            "take fewer or smaller pictures"
        )
