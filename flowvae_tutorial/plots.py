"""The figures of the book: each function returns a matplotlib figure."""

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle
from torch import Tensor
from torch.nn.functional import pad

from .history import History

# Okabe and Ito's eight colours, and two more: told apart by colour-blind readers.
COLOURS = [
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7",
    "#56B4E9", "#000000", "#B8A800", "#7F3C8D", "#888888",
]  # fmt: skip


def plot_history(history: History) -> Figure:
    """Validation ELBO, reconstruction and KL against epochs, the best epoch marked."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    epochs = range(1, len(history.loss) + 1)
    axes[0].plot(epochs, history.elbo, color=COLOURS[0])
    axes[0].set_ylim(*_focus(history.elbo))
    axes[0].axvline(history.best_epoch, color=COLOURS[9], linestyle=":")
    axes[0].annotate(
        f"best: {history.best_epoch}", (history.best_epoch, 0.05), ha="right",
        xycoords=("data", "axes fraction"), xytext=(-4, 0), textcoords="offset points",
    )  # fmt: skip
    axes[0].set(xlabel="epoch", ylabel="validation ELBO (nats per example)")
    axes[1].plot(epochs, history.kl, color=COLOURS[3])
    axes[1].set(xlabel="epoch", ylabel="validation KL (nats per example)")
    return figure


def _focus(values: list[float]) -> tuple[float, float]:
    """Limits that leave out the first, steep part of a curve."""
    high, low = max(values), sorted(values)[len(values) // 10]
    return low - 0.1 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3


def plot_images(images: Tensor, image_shape: tuple[int, int], columns: int = 10) -> Figure:
    """A grid of images `(N, X)`, black 1 on white 0, filled row by row.

    Example:
        >>> from flowvae_tutorial.data import load
        >>> from flowvae_tutorial.plots import plot_images
        >>> data = load("digits-binary")
        >>> figure = plot_images(data.test[:10], data.image_shape, columns=5)
        >>> len(figure.axes)
        10
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.7 * columns, 0.7 * rows), squeeze=False,
        gridspec_kw={"wspace": 0.08, "hspace": 0.08},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes.flat, images, strict=False):
        _show(axis, image, image_shape)
    return figure


def plot_rows(rows: dict[str, Tensor], image_shape: tuple[int, int], title: str = "") -> Figure:
    """Rows of as many images each, `(N, X)`, with the name of each row in front of it."""
    count = len(next(iter(rows.values())))
    figure, axes = plt.subplots(
        len(rows), count, figsize=(0.55 * count + 1.1, 0.6 * len(rows) + 0.3 * bool(title)),
        squeeze=False, layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0),
    )  # fmt: skip
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=True):
            _show(axis, image, image_shape)
            axis.set(xticks=[], yticks=[], frame_on=False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def plot_reconstructions(x: Tensor, reconstruction: Tensor, image_shape: tuple[int, int]) -> Figure:
    """Originals `(N, X)` above their reconstructions `(N, X)`."""
    return plot_rows({"original": x, "reconstructed": reconstruction}, image_shape)


def plot_latents(z: Tensor, labels: Tensor, extent: float = 3.5) -> Figure:
    """A map of two-dimensional latents `(N, 2)`, each drawn as the number of its class.

    The dashed circle holds 95 % of N(0, I). Latents further out than `extent` are left out.
    """
    figure, axis = plt.subplots(figsize=(5.5, 5.5), layout="constrained")
    for label in labels.unique().tolist():
        axis.plot(
            *z[labels == label].detach().cpu().T, linestyle="", marker=f"${label}$", markersize=6,
            markeredgewidth=0, color=COLOURS[label % len(COLOURS)],
        )  # fmt: skip
    radius = (-2 * np.log(0.05)) ** 0.5
    axis.add_patch(Circle((0, 0), radius, fill=False, linestyle="--"))
    axis.annotate(
        "95 % of N(0, I)", (0, radius), ha="center", va="center",
        bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"},
    )  # fmt: skip
    _latent_axes(axis, extent)
    return figure


def _latent_axes(axis: Any, extent: float, of_data: bool = False) -> None:
    name = "x" if of_data else "z"
    axis.set(
        xlabel=f"${name}_1$", ylabel=f"${name}_2$",
        xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal",
    )  # fmt: skip


def plot_densities(
    densities: dict[str, Callable[[Tensor], Tensor]],
    extent: float = 3.2,
    steps: int = 121,
    of_data: bool = False,
) -> Figure:
    """Two-dimensional densities side by side, on one scale.

    Args:
        densities: a name for each function from points `(N, 2)` to log-densities `(N,)`.
        extent: the plane is drawn from minus to plus this.
        steps: points along each axis.
        of_data: the plane is that of the data and not of the latents.
    """
    line = torch.linspace(-extent, extent, steps)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        values = [log_prob(grid).exp().reshape(steps, steps).T for log_prob in densities.values()]
    figure, axes = plt.subplots(
        1, len(values), figsize=(4 * len(values), 4), layout="constrained", squeeze=False
    )
    top = float(torch.stack(values).quantile(0.995))
    for axis, name, value in zip(axes[0], densities, values, strict=True):
        image = axis.imshow(
            value.cpu().numpy(), origin="lower", extent=(-extent, extent) * 2, cmap="viridis",
            vmin=0, vmax=top,
        )  # fmt: skip
        _latent_axes(axis, extent, of_data)
        axis.set_title(name)
    figure.colorbar(image, ax=axes, label="density", shrink=0.7, extend="max")
    return figure


def plot_posteriors(
    x: Tensor,
    densities: Mapping[str, Tensor],
    window: tuple[float, float, float, float],
    image_shape: tuple[int, int] | None = None,
    others: Tensor | None = None,
) -> Figure:
    """An example, and densities of its latent side by side on one scale.

    Args:
        x: the example, `(X,)`.
        densities: a name for the values `(steps, steps)` of each density, first index z₁.
        window: left, right, bottom and top of the part of the latent plane that is drawn.
        image_shape: of an image; without it x is a point of the plane.
        others: `(N, 2)`, points drawn behind x.
    """
    count = len(densities)
    figure, axes = plt.subplots(
        1, count + 1, figsize=(2.4 * count + 2, 2.9), layout="constrained",
        width_ratios=[0.8, *[1] * count],
    )  # fmt: skip
    if image_shape is not None:
        _show(axes[0], x, image_shape)
        axes[0].axis("off")
    else:
        if others is not None:
            axes[0].plot(*others.detach().cpu().T, ".", color=COLOURS[9], markersize=2)
        axes[0].plot(*x.detach().cpu(), "o", color=COLOURS[6], markersize=9)
        axes[0].set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    axes[0].set_title("x")
    shown = {name: value.detach().T.cpu().numpy() for name, value in densities.items()}
    top = max(value.max() for value in shown.values())
    for axis, (name, value) in zip(axes[1:], shown.items(), strict=True):
        axis.imshow(value, origin="lower", extent=window, cmap="viridis", vmin=0, vmax=top)
        axis.set(xlabel="$z_1$", title=name)
        axis.title.set_fontsize("medium")
    axes[1].set_ylabel("$z_2$")
    return figure


def plot_unit_variances(variance: Tensor, threshold: float = 0.01) -> Figure:
    """The variance of each latent unit's posterior mean, `(D,)`, sorted, against a threshold."""
    ordered = variance.detach().cpu().sort(descending=True).values.numpy()
    figure, axis = plt.subplots(figsize=(5.5, 3), layout="constrained")
    units = range(1, len(ordered) + 1)
    axis.bar(units, ordered, color=[COLOURS[0] if v > threshold else COLOURS[9] for v in ordered])
    axis.axhline(threshold, color=COLOURS[3], linestyle="--")
    axis.annotate(
        f"active above {threshold:g}", (len(ordered) + 0.4, 1.1 * threshold),
        ha="right", va="bottom", color=COLOURS[3],
    )  # fmt: skip
    axis.set(
        yscale="log", xlabel="latent unit, sorted", ylabel="variance of the posterior mean",
        xticks=[units[0], *units[3::4]],
    )  # fmt: skip
    return figure


def plot_decoded_grid(
    decode: Callable[[Tensor], Tensor],
    image_shape: tuple[int, int],
    extent: float = 2.5,
    steps: int = 11,
) -> Figure:
    """What a 2-D latent space decodes to: `decode` maps `(N, 2)` latents to `(N, X)` images."""
    line = torch.linspace(-extent, extent, steps)
    grid = torch.cartesian_prod(line.flip(0), line).flip(1)
    with torch.no_grad():
        images = decode(grid)
    # A white margin of one pixel tells neighbours apart.
    images = pad(images.reshape(-1, *image_shape), (1, 1, 1, 1))
    h, w = images.shape[1:]
    canvas = images.reshape(steps, steps, h, w).permute(0, 2, 1, 3).reshape(steps * h, steps * w)
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    half = extent * steps / (steps - 1)
    axis.imshow(
        canvas.cpu().numpy(), cmap="gray_r", vmin=0, vmax=1, extent=(-half, half, -half, half)
    )
    _latent_axes(axis, half)
    return figure


def _show(axis: Any, image: Tensor, image_shape: tuple[int, int]) -> None:
    pixels = np.asarray(image.detach().cpu()).reshape(image_shape)
    axis.imshow(pixels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
