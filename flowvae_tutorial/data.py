"""The book's data sets: digits (embedded in scikit-learn), 2-D rings, the MNIST family.

Every image is a flat row of numbers in [0, 1]; the data set knows its image shape. Your own come
from `own_data`.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .storage import downloads


def unchanged(x: Tensor) -> Tensor:
    """What `batch` is where nothing is drawn anew."""
    return x


LIKELIHOODS = ("bernoulli", "gaussian")


@dataclass(frozen=True)
class Data:
    """A data set in three parts, each `(N, X)`; `validation` and `test` are ready for a model.

    `train` is raw where training draws something anew for each batch (dequantisation noise,
    binarisation): pass rows of it through `batch` before a model sees them. `own_data` makes one
    of your pictures, splits it and looks at its values; this looks at its form only.

    Raises:
        InputError: a part is no floating-point tensor `(N, X)`, the image shape is of another X,
            or there is no such likelihood.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    _: KW_ONLY
    likelihood: Literal["bernoulli", "gaussian"]
    labels: dict[str, Tensor] = field(default_factory=dict)
    image_shape: tuple[int, int] | None = None
    batch: Callable[[Tensor], Tensor] = unchanged
    checksum: str = ""
    """Of your own data's values. The book's data sets are known by their names."""

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise InputError(
                f"there is no likelihood {self.likelihood!r}: choose 'bernoulli' for pixels that "
                "are 0 or 1, 'gaussian' for all others"
            )
        for part in ("train", "validation", "test"):
            x = getattr(self, part)
            if not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 2):
                form = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise InputError(
                    f"{part} must be a floating-point tensor (N, X), got {form}: `own_data` takes "
                    "pictures, NumPy arrays and whole numbers"
                )
            if x.shape[-1] != self.features:
                raise InputError(
                    f"{part} has {x.shape[-1]} features, train {self.features}: make them the same"
                )
        if self.image_shape is not None and math.prod(self.image_shape) != self.features:
            raise InputError(
                f"image_shape={self.image_shape} has {math.prod(self.image_shape)} pixels, and the "
                f"examples have {self.features}"
            )

    @property
    def features(self) -> int:
        """The data size X."""
        return self.train.shape[-1]

    @property
    def form(self) -> dict[str, Any]:
        """All that a model is built from; `blank` takes it."""
        names = ("name", "features", "likelihood", "image_shape", "checksum")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str) -> "Data":
        """The same data on another device; labels stay where they are."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )


def load(name: str) -> Data:
    """Load a data set by name; `DATA_SETS` lists the names.

    `digits`, `digits-binary` and `rings` need no file and no network. The others are downloaded
    once into `downloads.cache_folder()` and checked against published sums.

    Raises:
        InputError: no such name; or the files are neither in the cache nor to be had.

    Example:
        >>> from flowvae_tutorial.data import load
        >>> data = load("digits")
        >>> data.train.shape, data.image_shape, data.likelihood
        (torch.Size([1257, 64]), (8, 8), 'gaussian')
        >>> x = data.batch(data.train[:10])  # levels with fresh noise, in [0, 1)
        >>> bool(x.min() >= 0), bool(x.max() < 1)
        (True, True)
    """
    if name not in DATA_SETS:
        raise InputError(
            f"no data set named {name!r}: choose one of {', '.join(DATA_SETS)}, or a .npz or .pt "
            "file of your own, which np.savez makes of arrays"
        )
    return DATA_SETS[name]()


# --- digits -----------------------------------------------------------------------------------

SPLIT = (1257, 180, 360)


def _dequantise(levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pixel levels 0..16 to [0, 1): level k is spread evenly over [k/17, (k+1)/17).

    Uniform noise of one level's width turns the probability of an integer into a density that
    cannot grow without bound. Theis et al. (2016), section 3.1.
    """
    noise = torch.rand(levels.shape, generator=generator, dtype=levels.dtype, device=levels.device)
    return (levels + noise) / 17


def _digits(binary: bool) -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # The stream of numpy's RandomState is frozen for good, so the split never changes.
    order = np.random.RandomState(0).permutation(len(digits.data))
    levels = torch.tensor(digits.data[order], dtype=torch.float32)
    names = ("train", "validation", "test")
    labels = torch.tensor(digits.target[order])
    common: dict[str, Any] = {
        "labels": dict(zip(names, labels.split(SPLIT), strict=True)),
        "image_shape": (8, 8),
    }
    train, validation, test = levels.split(SPLIT)
    if binary:
        train, validation, test = ((part > 8).float() for part in (train, validation, test))
        return Data(
            "digits-binary", train, validation, test, likelihood="bernoulli", **common
        )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    validation, test = (_dequantise(part, generator) for part in (validation, test))
    return Data(
        "digits", train, validation, test, **common, likelihood="gaussian", batch=_dequantise
    )


# --- rings ------------------------------------------------------------------------------------


def _rings(n: int = 4000, modes: int = 8, radius: float = 2.0, scale: float = 0.14) -> Data:
    """Eight Gaussians on a circle: the data whose every property the eye can check."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(modes, (n,), generator=generator)
    angle = 2 * torch.pi * label / modes
    centre = radius * torch.stack([angle.cos(), angle.sin()], dim=-1)
    x = centre + scale * torch.randn(n, 2, generator=generator)
    sizes = [n // 2, n // 4, n // 4]
    train, validation, test = x.split(sizes)
    names = ("train", "validation", "test")
    return Data(
        "rings", train, validation, test,
        labels=dict(zip(names, label.split(sizes), strict=True)),
        likelihood="gaussian",
    )  # fmt: skip


# --- the MNIST family -------------------------------------------------------------------------

VALIDATION = 10_000


def _mnist(kind: Literal["MNIST", "FashionMNIST"], dynamic: bool) -> Data:
    """The protocol of Tomczak and Welling (2018): the last 10,000 training images validate.

    Pixels are probabilities. `dynamic` draws training images anew for each batch; otherwise they
    are drawn once, as validation and test images always are, with a fixed seed.
    """
    (train, labels), (test, test_labels) = downloads.mnist(kind)
    train, validation = train[:-VALIDATION], train[-VALIDATION:]
    generator = torch.Generator().manual_seed(0)
    validation, test = (torch.bernoulli(p, generator=generator) for p in (validation, test))
    if not dynamic:
        train = torch.bernoulli(train, generator=generator)
    short = {"MNIST": "mnist", "FashionMNIST": "fashion"}[kind]
    return Data(
        f"{'dynamic' if dynamic else 'fixed'}-{short}", train, validation, test,
        labels={
            "train": labels[:-VALIDATION],
            "validation": labels[-VALIDATION:],
            "test": test_labels,
        },
        likelihood="bernoulli", image_shape=(28, 28),
        batch=torch.bernoulli if dynamic else unchanged,
    )  # fmt: skip


def _static_mnist() -> Data:
    """MNIST binarised once by Larochelle: no labels, 50,000 / 10,000 / 10,000 images."""
    train, validation, test = downloads.static_mnist()
    return Data(
        "static-mnist", train, validation, test, likelihood="bernoulli", image_shape=(28, 28)
    )  # fmt: skip


DATA_SETS: dict[str, Callable[[], Data]] = {
    "digits": lambda: _digits(binary=False),
    "digits-binary": lambda: _digits(binary=True),
    "rings": _rings,
    "dynamic-mnist": lambda: _mnist("MNIST", dynamic=True),
    "fixed-mnist": lambda: _mnist("MNIST", dynamic=False),
    "dynamic-fashion": lambda: _mnist("FashionMNIST", dynamic=True),
    "fixed-fashion": lambda: _mnist("FashionMNIST", dynamic=False),
    "static-mnist": _static_mnist,
}


def outline(name: str) -> Data:
    """A data set's form without its examples, for `build`: it needs no file and no network.

    Raises:
        InputError: no such name.
    """
    if name not in DATA_SETS or not name.endswith(("mnist", "fashion")):
        return load(name)
    return blank(name, 784, likelihood="bernoulli", image_shape=(28, 28))


def blank(name: str, features: int, **form: Any) -> Data:
    """Data of this form, all zeros, in as many examples as a VampPrior may ask for."""
    nothing = torch.zeros(1, features)
    return Data(name, nothing.expand(50_000, -1), nothing, nothing, **form)
