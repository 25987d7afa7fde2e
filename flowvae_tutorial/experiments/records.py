"""Records of runs: a trained model, and what its evaluation on the test set found.

What reads them finds here all it needs: intervals and tables are of `tables`, and how records are
kept in files is `record_files`'.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..comparison import energy_distance, modes_found
from ..data import Data
from ..errors import InputError
from ..evaluation import evaluate, mean_and_standard_error, prior_gap
from ..history import History
from ..models import Sizes
from ..storage.files import write_whole
from ..training.progress import progress_bar, slow_bar
from ..vae import VAE
from . import record_files as files
from .record_files import Kind, Record, book_results, current_commit, run_name
from .tables import Interval, group, interval, paired_interval, paired_table, table

__all__ = [
    "RUNS", "Interval", "Record", "book_results", "current_commit", "group", "interval",
    "make_record", "paired_interval", "paired_table", "read_records", "run_name", "table",
    "write_record",
]  # fmt: skip
# Test examples between two looks at a long evaluation.
PART = 500
# Training images whose latents the prior gap is measured with: EM on more takes minutes.
GAP_IMAGES = 5000
# Test points whose energy distance to samples is measured.
ENERGY_POINTS = 1000


def _contradiction(record: Record) -> str | None:
    nll, count = record["nll"], record["num_test"]
    examples = np.array(nll["per_example"], dtype=float)
    if len(examples) != count:
        return f"num_test: {count}, but nll has {len(examples)} examples"
    with np.errstate(all="ignore"):
        found = {"mean": examples.mean(), "standard_error": examples.std(ddof=1) / count**0.5}
        # Examples are rounded to 0.001, and summed in single precision.
        near = 1e-3 + 1e-6 * np.abs(examples).max()
        for name, value in found.items():
            if not abs(value - nll[name]) <= near:
                return f"nll/{name}: {nll[name]}, but its examples have {value:.4f}"
    return None


_FORM = files.form(
    files.TRAINED | files.CODE | files.DAY | {
        "best_epoch": files.POSITIVE, "beta": {"type": "number", "minimum": 0},
        "sizes": files.OBJECT, "num_samples": files.POSITIVE,
        "num_test": {"type": "integer", "minimum": 2},
        "nll": files.form({
            "mean": files.NUMBER, "standard_error": {"type": "number", "minimum": 0},
            "per_example": files.NUMBERS,
        }),
        "elbo": files.NUMBER, "reconstruction": files.NUMBER, "kl": files.NUMBERS | {"minItems": 1},
        "active_units": files.COUNT, "prior_gap": files.NUMBER, "seconds": files.NUMBER,
    },
    {
        # Of clouds of points alone: of images, neither says much.
        "energy_distance": files.NUMBER, "modes": files.COUNT,
        # Later than the first records.
        "parameters": files.POSITIVE, "settings": files.OBJECT, "history": files.CURVES,
        "budget_control": files.OBJECT,
        # Of data of your own alone.
        "data_checksum": {"type": "string"},
    },
)  # fmt: skip
RUNS = Kind(
    plural="records",
    made_by="reproduce",
    schema=_FORM,
    name=lambda run: run_name(run["model"], run["data"], run["beta"], run["seed"]),
    contradiction=_contradiction,
)


def is_on_record(
    path: Path,
    data: Data,
    settings: dict[str, Any],
    *,
    kind: Kind = RUNS,
    overwrite: bool = False,
    **asked: Any,
) -> bool:
    """Whether a file is the record of a run, and the run is what is asked for now.

    Args:
        path: the file.
        data: what the run is trained on.
        settings: the arguments of `fit` that are asked for.
        kind: of the record.
        overwrite: a record of something else counts as none.
        asked: other fields that must be equal, if the record has them.

    Raises:
        InputError: the record is damaged, or is one of something else.
    """
    if not path.exists():
        return False
    record = files.read(kind, path)
    if record.get("data_checksum", "") != data.checksum:
        differs = [f"it is of other data that were called {data.name!r}, too"]
    else:
        differs = differences(record, **asked) + _trained_otherwise(record, settings)
    if differs and not overwrite:
        raise InputError(
            f"{path} is there already, but {', '.join(differs)}: ask for the same, take another "
            "folder, or add --overwrite to replace it"
        )
    return not differs


def differences(record: Record, **asked: Any) -> list[str]:
    """What a record has otherwise than it is asked for; a field that it lacks is no difference."""
    found = []
    for name, value in json.loads(json.dumps(asked)).items():
        if isinstance(value, dict):
            within = {key: value[key] for key in record.get(name, {}) if key in value}
            found += differences(record.get(name, {}), **within)
        elif record.get(name, value) != value:
            found.append(f"it has {name} = {record[name]} and not {value}")
    return found


def _trained_otherwise(record: Record, settings: dict[str, Any]) -> list[str]:
    """As `differences`. Where a record has no settings, its epochs must do."""
    if seen := record.get("settings"):
        # What `fit` was not given is its default, and that is not among the book's settings.
        of = settings | dict.fromkeys(seen.keys() - settings.keys())
        missing = [f"it was trained without {key}" for key in of if key not in seen]
        return differences(seen, **of) + missing
    epochs = record["epochs"]
    stopped = epochs - max(record["best_epoch"], settings["warmup"]) >= settings["patience"]
    fits = epochs == settings["epochs"] or (epochs < settings["epochs"] and stopped)
    return [] if fits else [f"it has {epochs} epochs and not {settings['epochs']}"]


def make_record(
    model: str,
    vae: VAE,
    data: Data,
    sizes: Sizes,
    history: History,
    *,
    seed: int,
    beta: float,
    num_samples: int,
    commit: str,
    settings: dict[str, Any] | None = None,
    partial: Path | None = None,
    progress: bool = False,
) -> Record:
    """Evaluate a trained model on its test set and describe the run; `RUNS.schema` is the form.

    Args:
        model: its name.
        vae: the model itself.
        data: what it was trained on.
        sizes: its sizes.
        history: of its training.
        seed: of the run, and of what is drawn here.
        beta: the weight that the KL term had.
        num_samples: S of the importance-sampled NLL.
        commit: of the code.
        settings: the other arguments of its training, for the record.
        partial: a file for what is done so far. A stopped evaluation goes on from it.
        progress: show a progress bar.
    """
    return files.describe(
        next(vae.parameters()).device, commit, model=model, data=data.name, seed=seed, beta=beta,
        sizes=sizes._asdict(), epochs=len(history.loss), best_epoch=history.best_epoch,
        num_samples=num_samples, num_test=len(data.test),
        **_figures(vae, data, num_samples, seed, partial, progress),
        seconds=round(history.seconds, 1), parameters=sum(p.numel() for p in vae.parameters()),
        settings=settings or {}, history=files.curves(history),
        **({"data_checksum": data.checksum} if data.checksum else {}),
    )  # fmt: skip


def _figures(
    vae: VAE, data: Data, num_samples: int, seed: int, partial: Path | None, progress: bool
) -> dict[str, Any]:
    device = next(vae.parameters()).device
    data = data.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        nll = _nll(vae, data.test, num_samples, seed, partial, progress)
        with slow_bar(desc="test figures", total=3, disable=not progress) as bar:
            result = evaluate(vae, data.test, num_samples, nll=nll)
            bar.update()
            gap = prior_gap(vae, data.batch(data.train[:GAP_IMAGES]), data.test).mean().item()
            bar.update()
            points = {} if data.image_shape else _compare_samples(vae, data)
            bar.update()
    mean, standard_error = mean_and_standard_error(result.nll)
    return {
        "nll": {
            "mean": round(mean, 4), "standard_error": round(standard_error, 4),
            "per_example": [round(value, 3) for value in result.nll.tolist()],
        },
        "elbo": round(result.elbo, 4), "reconstruction": round(result.reconstruction, 4),
        "kl": [round(level, 4) for level in result.kl], "prior_gap": round(gap, 4),
        "active_units": int(result.active.sum()), **points,
    }  # fmt: skip


def _nll(
    vae: VAE, x: Tensor, num_samples: int, seed: int, partial: Path | None, progress: bool
) -> Tensor:
    """Minus the log-likelihoods, `(N,)`, a part of the examples at a time if there are many."""
    if len(x) <= 2 * PART:
        bar = slow_bar(desc="test NLL", total=num_samples, disable=not progress, unit="sample")

        def counted(_module: Any, z: tuple[Tensor], _p_x: Any) -> None:
            # Whatever a hook gives back would stand for p(x | z), and `update` says what it did.
            bar.update(len(z[0]))

        # The likelihood sees each sample once, `(S, N, D)`, whatever part of them it is given.
        count = vae.likelihood.register_forward_hook(counted)
        try:
            with bar:
                return -vae.log_marginal(x, num_samples)
        finally:
            count.remove()
    weights = hashlib.sha256()
    for value in vae.state_dict().values():
        weights.update(value.cpu().numpy().tobytes())
    of = {"weights": weights.hexdigest(), "num_samples": num_samples, "seed": seed}
    parts = x.split(PART)
    done: list[list[float]] = []
    if partial is not None and partial.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            kept = json.loads(partial.read_text())
            sizes = [len(part) for part in kept["nll"]]
            fits = sizes == [len(part) for part in parts][: len(sizes)]
            done = kept["nll"] if kept["of"] == of and fits else []
    bar = progress_bar(
        desc="test NLL", total=len(x), initial=PART * len(done), disable=not progress, unit="image"
    )
    with bar:
        for part in range(len(done), len(parts)):
            # Whatever part it starts with, an evaluation draws the same noise.
            torch.manual_seed(1_000_003 * seed + part)
            done.append((-vae.log_marginal(parts[part], num_samples)).tolist())
            if partial is not None:
                write_whole(partial, json.dumps({"of": of, "nll": done}).encode())
            bar.update(len(parts[part]))
    torch.manual_seed(1_000_003 * seed + len(parts))
    return x.new_tensor([value for part in done for value in part])


def _compare_samples(vae: VAE, data: Data) -> dict[str, float | int]:
    # Each with each: memory grows with the square.
    test = data.test[:ENERGY_POINTS]
    samples, labels = vae.sample(10 * len(test)), data.labels.get("train")
    found: dict[str, float | int] = {"energy_distance": round(energy_distance(samples, test), 5)}
    if labels is not None and data.features == 2:
        found["modes"] = modes_found(samples, data.train, labels.to(samples.device))
    return found


def write_record(record: Record, folder: Path) -> Path:
    """Write a record, whole or not at all.

    Raises:
        InputError: the record breaks the schema or contradicts itself.
    """
    return files.write(RUNS, record, folder)


def read_records(folder: Path, data: str | None = None) -> list[Record]:
    """All records of a folder, in the order of their files, or those of one data set.

    Raises:
        InputError: there is none, or one is damaged, of another form or not what its name says.

    Example:
        >>> from flowvae_tutorial.experiments.records import book_results, read_records
        >>> {run["num_samples"] for run in read_records(book_results(), "digits")}
        {5000}
    """
    return list(files.find(RUNS, folder, data).values())
