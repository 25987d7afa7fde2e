"""Does refinement make better samples? Measured against held-out images, kept as records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..comparison import energy_distance, precision_and_recall
from ..data import Data
from ..errors import InputError
from ..networks import dense
from ..refinement import refine
from ..training.progress import slow_bar
from ..vae import VAE
from . import record_files as files
from .record_files import Form, Kind, Record, run_name
from .tables import Interval, interval

# What is measured: after so many steps of this size, held so hard, on so many latents.
STEPS = (0, 1, 2, 5, 10, 20, 50, 100)
LR = 0.1
ANCHORS = (0.1, 0.0)
LATENTS = 1000
NEIGHBOURS = 5
# Training images that the reference is measured with: distances between more fill the memory.
REFERENCE_IMAGES = 5000
FIGURES = ("log_prob", "distance", "confidence", "precision", "recall", "energy_distance")


def _grid(number: Form) -> Form:
    """A row an anchor, a column a number of steps."""
    return {"type": "array", "items": {"type": "array", "items": number}}


def _contradiction(record: Record) -> str | None:
    shape = [len(record["steps"])] * len(record["anchors"])
    for name in FIGURES:
        if [len(row) for row in record[name]] != shape:
            return f"{name}: a row an anchor, a column a number of steps"
    return None


_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_FORM = files.form(
    files.TRAINED | files.CODE | files.DAY | {
        "best_epoch": files.POSITIVE, "lr": {"type": "number", "exclusiveMinimum": 0},
        "anchors": {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1},
        "steps": {"type": "array", "items": files.COUNT, "minItems": 1},
        "decoded": {"const": "draws"}, "num_latents": files.POSITIVE, "num_test": files.POSITIVE,
        "num_compared": files.POSITIVE, "neighbours": files.POSITIVE,
        "log_prob": _grid(files.NUMBER), "distance": _grid({"type": "number", "minimum": 0}),
        "confidence": _grid(_SHARE), "precision": _grid(_SHARE), "recall": _grid(_SHARE),
        "energy_distance": _grid(files.NUMBER),
        "reference": files.form({
            "accuracy": _SHARE, "confidence": _SHARE, "precision": _SHARE, "recall": _SHARE,
            "energy_distance": files.NUMBER,
        }),
    },
    # Of data of your own alone.
    {"data_checksum": files.TEXT},
)  # fmt: skip
REFINEMENTS = Kind(
    plural="refinements",
    made_by="refine",
    schema=_FORM,
    name=lambda run: run_name(run["model"], run["data"], 1, run["seed"]),
    contradiction=_contradiction,
)


class Classifier(nn.Module):
    """A small perceptron: logits of the classes, and the features that it decides on."""

    def __init__(self, features: int, classes: int, hidden: int = 128) -> None:
        """Set up the network, `(..., features)` to `(..., classes)`."""
        super().__init__()
        self.body = nn.Sequential(dense(features, hidden), dense(hidden, hidden // 2))
        self.head = nn.Linear(hidden // 2, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, where distances mean more than they do between pixels."""
        h: Tensor = self.body(x)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        logits: Tensor = self.head(self.features(x))
        return logits


def fit_classifier(
    data: Data, epochs: int = 50, seed: int = 0, progress: bool = False
) -> Classifier:
    """Train a classifier on the training images; the caller's random state is left as it was.

    Args:
        data: with labels of the training images.
        epochs: passes over them.
        seed: of weights, batches and noise.
        progress: show a progress bar.

    Raises:
        InputError: the data have no labels.
    """
    if not data.labels.keys() >= {"train", "test"}:
        raise InputError(f"data set {data.name!r} has no labels to train and test a classifier on")
    x, device = data.train, data.train.device
    labels = data.labels["train"].to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        classifier = Classifier(data.features, int(labels.max()) + 1).to(device)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.01)
        bar = slow_bar(iterable=range(epochs), desc="classifier", disable=not progress)
        for _ in bar:
            for rows in torch.randperm(len(x), device=device).split(64):
                loss = F.cross_entropy(classifier(data.batch(x[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return classifier.requires_grad_(False)


def measured() -> Record:
    """The numbers that `measure_refinement` goes by, as its records have them."""
    return {
        "lr": LR, "anchors": ANCHORS, "steps": STEPS, "num_latents": LATENTS,
        "neighbours": NEIGHBOURS,
    }  # fmt: skip


@torch.no_grad()
def measure_refinement(
    model: str,
    vae: VAE,
    data: Data,
    classifier: Classifier,
    *,
    seed: int,
    epochs: int,
    best_epoch: int,
    commit: str,
    progress: bool = False,
) -> Record:
    """Refine the same latents by `STEPS`, at each of `ANCHORS`, and describe the samples.

    A sample is a draw from the likelihood and not its mean, as a test image is a draw: means lack
    the noise of the images and would be told apart by that alone. Latents and noise are the same
    for every number of steps, so differences between columns are paired.

    The figures: mean log p(z) and distance from the start, in latent space; the classifier's
    mean highest probability; `precision_and_recall` against test images, in the classifier's
    features, of as many samples as images; `energy_distance` to the test images, in pixels. The
    reference has the classifier's accuracy and confidence on test images, and for the rest
    training images in place of the samples.
    """
    device = next(vae.parameters()).device
    data = data.to(device)
    compared = min(LATENTS, len(data.test))
    test = data.test[:compared]

    def figures_of(x: Tensor) -> dict[str, float]:
        precision, recall = precision_and_recall(
            classifier.features(x[:compared]), classifier.features(test), NEIGHBOURS
        )
        return {
            "confidence": _confidence(classifier, x),
            "precision": precision,
            "recall": recall,
            "energy_distance": energy_distance(x, data.test),
        }

    bar = slow_bar(desc="refinement", total=len(ANCHORS) * len(STEPS), disable=not progress)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with bar, forked:
        torch.manual_seed(seed)
        prior = vae.prior()
        start = prior.sample((LATENTS,))
        grid: dict[str, list[list[float]]] = {name: [[] for _ in ANCHORS] for name in FIGURES}
        for row, anchor in enumerate(ANCHORS):
            for steps in STEPS:
                z = refine(start, prior.log_prob, steps=steps, lr=LR, anchor=anchor)
                torch.manual_seed(seed)
                figures = {
                    "log_prob": prior.log_prob(z).mean().item(),
                    "distance": (z - start).norm(dim=-1).mean().item(),
                    **figures_of(vae.likelihood(z.unsqueeze(0)).sample().squeeze(0)),
                }
                for name, value in figures.items():
                    grid[name][row].append(round(value, 5))
                bar.update()
        torch.manual_seed(seed)
        labels = data.labels["test"].to(device)
        right = classifier(data.test).argmax(-1) == labels
        reference = figures_of(data.batch(data.train[:REFERENCE_IMAGES])) | {
            "accuracy": right.sum().item() / len(right),
            "confidence": _confidence(classifier, data.test),
        }
    return files.describe(
        device, commit, model=model, data=data.name, seed=seed, epochs=epochs,
        best_epoch=best_epoch, decoded="draws", num_test=len(data.test), num_compared=compared,
        **measured(), **grid,
        reference={name: round(value, 5) for name, value in reference.items()},
        **({"data_checksum": data.checksum} if data.checksum else {}),
    )  # fmt: skip


def _confidence(classifier: Classifier, x: Tensor) -> float:
    return float(classifier(x).softmax(dim=-1).amax(dim=-1).mean())


def read_refinements(folder: Path, data: str | None = None) -> list[Record]:
    """All records of a folder, in the order of their files, or those of one data set.

    Raises:
        InputError: there is none, or one is damaged, of another form or not what its name says.
    """
    return list(files.find(REFINEMENTS, folder, data).values())


def gain(records: Sequence[Record], figure: str, anchor: float, steps: int) -> Interval:
    """What `steps` steps change in a figure, against none: a 95 % interval, paired by seed.

    Args:
        records: of one model, one a seed.
        figure: one of `FIGURES`.
        anchor: one of the records' anchors.
        steps: one of the records' steps.

    Raises:
        InputError: fewer than two records, or no such figure.

    Example:
        >>> from flowvae_tutorial.experiments.records import book_results
        >>> from flowvae_tutorial.experiments.refinement_records import gain, read_refinements
        >>> records = read_refinements(book_results() / "refinement", "digits")
        >>> of_flows = [record for record in records if record["model"] == "flow-prior"]
        >>> gain(of_flows, "log_prob", anchor=0.1, steps=10).low > 0  # uphill, as it should be
        True
    """
    changes = []
    for record in records:
        if figure not in FIGURES or anchor not in record["anchors"] or steps not in record["steps"]:
            raise InputError(f"no {figure} at anchor {anchor:g} after {steps} steps in a record")
        row = record[figure][record["anchors"].index(anchor)]
        changes.append(row[record["steps"].index(steps)] - row[record["steps"].index(0)])
    return interval(changes)


def refinement_table(records: Sequence[Record]) -> str:
    """A Markdown table: means over seeds at each anchor and number of steps."""
    lines = [
        "| run | seeds | anchor | steps | log p(z) | distance | confidence | precision | recall "
        "| energy distance |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        # Only what was measured alike has a mean.
        key = record["data"], record["model"], tuple(record["anchors"]), tuple(record["steps"])
        groups.setdefault(key, []).append(record)
    for (data, model, anchors, all_steps), runs in groups.items():
        for row, anchor in enumerate(anchors):
            for column, steps in enumerate(all_steps):
                means = [sum(r[name][row][column] for r in runs) / len(runs) for name in FIGURES]
                figures = [f"{means[0]:.2f}", *(f"{mean:.3f}" for mean in means[1:])]
                cells = [f"{data}-{model}", len(runs), f"{anchor:g}", steps, *figures]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
