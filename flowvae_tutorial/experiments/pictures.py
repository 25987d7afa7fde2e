"""Pictures and tables that commands leave behind."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data import DATA_SETS, Data, outline
from ..errors import InputError
from ..plots import COLOURS, plot_images, plot_rows
from ..storage.files import write_whole
from ..storage.own_data import load_data
from ..storage.trained import load_trained
from ..training.progress import slow_bar
from ..vae import VAE
from .record_files import Record, run_name

# Columns of the report's pictures.
COLUMNS = 12


def draw_run(vae: VAE, data: Data, path: Path) -> Path:
    """Samples above reconstructions for images, clouds of points for points.

    Example:
        >>> from pathlib import Path
        >>> from flowvae_tutorial import build
        >>> from flowvae_tutorial.data import load
        >>> from flowvae_tutorial.experiments.pictures import draw_run
        >>> data = load("rings")
        >>> draw_run(build("gaussian", data), data, Path("rings.png")).name
        'rings.png'
    """
    torch.manual_seed(0)
    if data.image_shape is None:
        return draw_samples(vae.sample(len(data.test)), data, path)
    x = data.test[torch.arange(10) % len(data.test)]
    images = torch.cat([vae.sample(30, mean=True), x, vae.reconstruct(x)])
    title = "30 samples; below, 10 test images and their reconstructions"
    return draw_samples(images, data, path, title)


def draw_samples(x: Tensor, data: Data, path: Path, title: str = "") -> Path:
    """A grid of images `(N, X)`, or points `(N, X)` above those of the test data.

    Of points with more than two numbers the first and the last are drawn. An outline has no test
    data.
    """
    if data.image_shape is None:
        figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
        if there := len(data.test) > 1:
            axis.plot(*data.test.cpu().T[[0, -1]], ".", ms=3, color=COLOURS[9], label="test data")
        axis.plot(*x.cpu().T[[0, -1]], ".", ms=3, color=COLOURS[0], label="samples")
        title = "test data and samples" if there else "samples"
        last = "$x_2$" if data.features == 2 else f"$x_{{{data.features}}}$"
        axis.set(xlabel="$x_1$", ylabel=last, title=title)
        axis.legend()
    else:
        figure = plot_images(x.cpu(), data.image_shape)
        figure.suptitle(title)
    return _save(figure, path)


def draw_report(
    records: Sequence[Record], runs: Path, folder: Path, file: str | None = None
) -> list[Path]:
    """Reconstructions and samples of every run of images whose checkpoint is in `runs`.

    Your own data are reconstructed if `file` is theirs; their samples need none.

    Raises:
        InputError: there is no such run, or their data are not to be had.
    """
    pictures = []
    for name in dict.fromkeys(record["data"] for record in records):
        if name in DATA_SETS and outline(name).image_shape is None:
            continue
        kept = {}
        shape = None
        for record in slow_bar(iterable=records, desc=f"models of {name}"):
            run = run_name(record["model"], name, record["beta"], record["seed"])
            checkpoint = runs / run / "checkpoint.pt"
            first = record["seed"] == 0 and record["beta"] == 1
            if record["data"] == name and first and checkpoint.exists():
                trained = load_trained(checkpoint)
                kept[record["model"]], shape = trained.vae, trained.outline.image_shape
        if shape is None:
            continue
        source = name if name in DATA_SETS else file
        x = None if source is None else load_data(source).test[:COLUMNS]
        torch.manual_seed(0)
        if x is not None:
            rebuilt = {
                model: vae.reconstruct(x)
                for model, vae in slow_bar(iterable=kept.items(), desc="reconstructions")
            }
            figure = plot_rows({"test images": x, **rebuilt}, shape)
            pictures.append(_save(figure, folder / f"{name}-reconstructions.png"))
        samples = {
            model: vae.sample(COLUMNS, mean=True)
            for model, vae in slow_bar(iterable=kept.items(), desc="samples")
        }
        pictures.append(_save(plot_rows(samples, shape), folder / f"{name}-samples.png"))
    if not pictures:
        raise InputError(f"no checkpoint in {runs} belongs to a record of images: run `reproduce`")
    return pictures


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, facecolor="white", format="png", bbox_inches="tight")
    plt.close(figure)
    return write_whole(path, buffer.getvalue())


def figures_of(record: Record) -> str:
    """The test figures of one run, to be read in a terminal."""
    nll = record["nll"]
    # Every level of a hierarchy has as many.
    units = record["sizes"]["latent"] * len(record["kl"])
    rows = [
        ("NLL", f"{nll['mean']:.2f} ± {nll['standard_error']:.2f}", "nats per example"),
        ("ELBO", f"{record['elbo']:.2f}", "nats per example"),
        ("reconstruction", f"{record['reconstruction']:.2f}", "nats per example"),
        ("KL", f"{sum(record['kl']):.2f}", "nats per example"),
        ("active units", f"{record['active_units']} of {units}", ""),
    ]
    head = (
        f"{record['model']} on {record['data']}, seed {record['seed']}: best epoch "
        f"{record['best_epoch']} of {record['epochs']}; {record['num_test']} test examples, "
        f"S = {record['num_samples']}"
    )
    return "\n".join([head, *(f"  {n:<15}{v:>16}  {unit}".rstrip() for n, v, unit in rows)])
