"""The figures of the book: each function returns a matplotlib figure."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .training import History

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
    axes[0].set(xlabel="epoch", ylabel="validation ELBO (nats per image)")
    axes[1].plot(epochs, history.kl, color=COLOURS[3])
    axes[1].set(xlabel="epoch", ylabel="validation KL (nats per image)")
    return figure


def _focus(values: list[float]) -> tuple[float, float]:
    """Limits that leave out the first, steep part of a curve."""
    high, low = max(values), sorted(values)[len(values) // 10]
    return low - 0.1 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3


def plot_images(images: Tensor, image_shape: tuple[int, int], columns: int = 10) -> Figure:
    """A grid of images `(N, X)`, black 1 on white 0, filled row by row."""
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


def plot_reconstructions(x: Tensor, reconstruction: Tensor, image_shape: tuple[int, int]) -> Figure:
    """Originals `(N, X)` above their reconstructions `(N, X)`."""
    figure, axes = plt.subplots(
        2, len(x), figsize=(0.7 * len(x) + 1.2, 1.5), squeeze=False,
        gridspec_kw={"wspace": 0.08, "hspace": 0.08},
    )  # fmt: skip
    for row, images, name in zip(
        axes, (x, reconstruction), ("original", "reconstructed"), strict=True
    ):
        for axis, image in zip(row, images, strict=True):
            _show(axis, image, image_shape)
            axis.set(xticks=[], yticks=[], frame_on=False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def plot_latents(z: Tensor, labels: Tensor) -> Figure:
    """A map of two-dimensional latents `(N, 2)`, each class named where its latents lie."""
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    draw_latents(axis, z, labels)
    return figure


def draw_latents(axis: Any, z: Tensor, labels: Tensor) -> None:
    """The same on an axis of the caller's."""
    for label in labels.unique().tolist():
        points = z[labels == label]
        axis.scatter(*points.T, s=8, color=COLOURS[label % len(COLOURS)], linewidths=0)
        axis.annotate(
            str(label), points.median(dim=0).values.tolist(), ha="center", va="center",
            fontsize=13, fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "none",
                  "alpha": 0.85},
        )  # fmt: skip
    axis.set(xlabel="$z_1$ (prior standard deviations)", ylabel="$z_2$ (prior standard deviations)")
    axis.set_aspect("equal")


def plot_decoded_grid(
    decode: Any, image_shape: tuple[int, int], extent: float = 2.5, steps: int = 15
) -> Figure:
    """What a 2-D latent space decodes to: `decode` maps `(N, 2)` latents to `(N, X)` images."""
    line = torch.linspace(-extent, extent, steps)
    grid = torch.cartesian_prod(line.flip(0), line).flip(1)
    with torch.no_grad():
        images = decode(grid)
    h, w = image_shape
    canvas = images.reshape(steps, steps, h, w).permute(0, 2, 1, 3).reshape(steps * h, steps * w)
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    half = extent * steps / (steps - 1)
    axis.imshow(canvas.numpy(), cmap="gray_r", vmin=0, vmax=1, extent=(-half, half, -half, half))
    axis.set(xlabel="$z_1$ (prior standard deviations)", ylabel="$z_2$ (prior standard deviations)")
    return figure


def _show(axis: Any, image: Tensor, image_shape: tuple[int, int]) -> None:
    pixels = np.asarray(image.detach().cpu()).reshape(image_shape)
    axis.imshow(pixels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
