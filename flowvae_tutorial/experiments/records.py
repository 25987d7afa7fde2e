"""Records of runs, and the tables and paired intervals that the pages read from them."""

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Data
from ..errors import InputError
from ..evaluation import (
    energy_distance,
    evaluate,
    mean_and_standard_error,
    modes_found,
    prior_gap,
)
from ..models import Sizes
from ..storage.checkpoints import History
from ..storage.files import write_whole
from ..training.progress import progress_bar
from ..vae import VAE
from .record_files import (
    COUNT,
    NUMBER,
    Record,
    check_schema,
    read_valid,
    run_name,
    write_valid,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string"},
        "data": {"type": "string"},
        "seed": COUNT,
        "beta": {"type": "number", "minimum": 0},
        "sizes": {"type": "object"},
        "epochs": {"type": "integer", "minimum": 1},
        "best_epoch": {"type": "integer", "minimum": 1},
        "num_samples": {"type": "integer", "minimum": 1},
        "num_test": {"type": "integer", "minimum": 2},
        "nll": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "mean": NUMBER,
                "standard_error": {"type": "number", "minimum": 0},
                "per_example": {"type": "array", "items": NUMBER},
            },
            "required": ["mean", "standard_error", "per_example"],
        },
        "elbo": NUMBER,
        "reconstruction": NUMBER,
        "kl": {"type": "array", "items": NUMBER, "minItems": 1},
        "active_units": COUNT,
        "prior_gap": NUMBER,
        "seconds": NUMBER,
        "device": {"type": "string"},
        "torch": {"type": "string"},
        "commit": {"type": "string"},
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    },
}
SCHEMA["required"] = list(SCHEMA["properties"])
# Of clouds of points alone: of images, neither says much.
SCHEMA["properties"] |= {"energy_distance": NUMBER, "modes": COUNT}
# Later than the first records; the sum is of your own data alone.
_CURVE = {"type": "array", "items": NUMBER}
SCHEMA["properties"] |= {
    "data_checksum": {"type": "string"},
    "parameters": {"type": "integer", "minimum": 1},
    "settings": {"type": "object"},
    "history": {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _CURVE for name in ("loss", "reconstruction", "kl")},
    },
}
# Test examples between two looks at a long evaluation.
PART = 500
# Training images whose latents the prior gap is measured with: EM on more takes minutes.
GAP_IMAGES = 5000
# Test points whose energy distance to samples is measured.
ENERGY_POINTS = 1000


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
    """Evaluate a trained model on its test set and describe the run; `SCHEMA` is the form.

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
    device = next(vae.parameters()).device
    data = data.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        nll = _nll(vae, data.test, num_samples, seed, partial, progress)
        result = evaluate(vae, data.test, num_samples, nll=nll)
        gap = prior_gap(vae, data.batch(data.train[:GAP_IMAGES]), data.test).mean().item()
        points = {} if data.image_shape else _compare_samples(vae, data)
    mean, standard_error = mean_and_standard_error(result.nll)
    record = {
        "model": model,
        "data": data.name,
        "seed": seed,
        "beta": beta,
        "sizes": sizes._asdict(),
        "epochs": len(history.loss),
        "best_epoch": history.best_epoch,
        "num_samples": num_samples,
        "num_test": len(data.test),
        "nll": {
            "mean": round(mean, 4),
            "standard_error": round(standard_error, 4),
            "per_example": [round(value, 3) for value in result.nll.tolist()],
        },
        "elbo": round(result.elbo, 4),
        "reconstruction": round(result.reconstruction, 4),
        "kl": [round(level, 4) for level in result.kl],
        "active_units": int(result.active.sum()),
        "prior_gap": round(gap, 4),
        "seconds": round(history.seconds, 1),
        "device": str(device),
        "torch": torch.__version__,
        "commit": commit,
        "date": date.today().isoformat(),
        "parameters": sum(p.numel() for p in vae.parameters()),
        "settings": settings or {},
        "history": {
            name: [round(value, 3) for value in getattr(history, name)]
            for name in ("loss", "reconstruction", "kl")
        },
        **points,
        **({"data_checksum": data.checksum} if data.checksum else {}),
    }
    # A tuple of sizes becomes the list that it is in the file.
    return dict(json.loads(json.dumps(record)))


def _nll(
    vae: VAE, x: Tensor, num_samples: int, seed: int, partial: Path | None, progress: bool
) -> Tensor:
    """Minus the log-likelihoods, `(N,)`, a part of the examples at a time if there are many."""
    if len(x) <= 2 * PART:
        return -vae.log_marginal(x, num_samples)
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


def book_results() -> Path:
    """The folder of the book's own records, in a checkout or in an installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "book" / "results"
    return checkout if checkout.is_dir() else package / "results"


def current_commit() -> str:
    """The commit of the code that runs, or `unknown` outside a checkout."""

    def answer(*question: str) -> str:
        git = ["git", "-C", str(Path(__file__).parent), *question]
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()

    try:
        # An installed package may lie in a folder of somebody else's repository.
        known = answer("ls-files", Path(__file__).name)
        return (known and answer("rev-parse", "--short", "HEAD")) or "unknown"
    except FileNotFoundError:  # git is not installed
        return "unknown"


def write_record(record: Record, folder: Path) -> Path:
    """Write a record, whole or not at all.

    Raises:
        InputError: the record breaks the schema.
    """
    _validate(record, "this record")
    name = run_name(record["model"], record["data"], record["beta"], record["seed"])
    return write_valid(record, folder / f"{name}.json")


def read_records(folder: Path, data: str | None = None) -> list[Record]:
    """All records of a folder, in the order of their files, or those of one data set.

    Raises:
        InputError: there is none, or one is damaged or breaks the schema.
    """
    records = read_valid(folder, data, _validate)
    if not records:
        raise InputError(f"no records{f' of {data}' if data else ''} in {folder}: run `reproduce`")
    return records


def _validate(record: Any, where: str) -> None:
    check_schema(SCHEMA, record, where)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of independent values, one a seed.

    Example:
        >>> from flowvae_tutorial.experiments.records import interval
        >>> print(interval([22.1, 22.3, 22.6]))
        22.33 [21.71, 22.96]
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise InputError(f"an interval needs at least 2 seeds, got {len(array)}")
    return _student(array.mean(), array.var(ddof=1) / len(array), len(array))


def paired_interval(first: Sequence[Record], second: Sequence[Record]) -> Interval:
    """95 % interval of the difference in NLL, first minus second: positive if second is better.

    Runs are paired by seed and, within a seed, by test example. Two things would come out
    differently on another day: the seeds and the test set. The variance of the mean difference
    is taken as the sum of both, variance between seeds over the number of seeds plus variance
    between examples over the number of examples. The noise that the two share is counted twice,
    so the interval is, if anything, too wide. Student's t with seeds − 1 degrees of freedom.

    Raises:
        InputError: the two do not cover the same seeds and test examples.
    """
    one, other = ({r["seed"]: r["nll"]["per_example"] for r in runs} for runs in (first, second))
    if sorted(one) != sorted(other):
        raise InputError(f"runs are not paired: seeds {sorted(one)} against {sorted(other)}")
    seeds = sorted(one)
    if len(seeds) < 2:
        raise InputError(f"an interval needs at least 2 seeds, got {len(seeds)}")
    if {len(rows) for rows in [*one.values(), *other.values()]} != {len(one[seeds[0]])}:
        raise InputError("runs are not paired: they were tested on different numbers of examples")
    difference = np.array([np.subtract(one[seed], other[seed]) for seed in seeds])
    by_seed, by_example = difference.mean(axis=1), difference.mean(axis=0)
    variance = by_seed.var(ddof=1) / len(by_seed) + by_example.var(ddof=1) / len(by_example)
    return _student(difference.mean(), variance, len(seeds))


def _student(mean: float, variance: float, count: int) -> Interval:
    # Half as long an import as that of torch, and few who train a model ask for an interval.
    from scipy import stats

    half = float(stats.t.ppf(0.975, count - 1)) * float(variance) ** 0.5
    return Interval(float(mean), float(mean) - half, float(mean) + half)


def group(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by run name without the seed."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        name = run_name(record["model"], record["data"], record["beta"], record["seed"])
        groups.setdefault(name.rpartition("-seed")[0], []).append(record)
    return groups


def table(records: Sequence[Record]) -> str:
    """A Markdown table, one line a model: means over seeds, NLL with its 95 % interval in nats."""
    lines = [
        "| run | seeds | NLL | ELBO | reconstruction | KL | active units | gap of the prior |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in group(records).items():
        nll = [r["nll"]["mean"] for r in runs]
        shown = str(interval(nll)) if len(runs) > 1 else f"{nll[0]:.2f} (one seed)"
        mean = {
            key: np.mean([np.sum(r[key]) for r in runs])
            for key in ("elbo", "reconstruction", "kl", "active_units", "prior_gap")
        }
        lines.append(
            f"| {name} | {len(runs)} | {shown} | {mean['elbo']:.2f} "
            f"| {mean['reconstruction']:.2f} | {mean['kl']:.2f} | {mean['active_units']:.1f} "
            f"| {mean['prior_gap']:.2f} |"
        )
    return "\n".join(lines)


def paired_table(records: Sequence[Record]) -> str:
    """A Markdown table of paired differences in NLL between all models of each data set, β = 1."""
    groups = group([r for r in records if r["beta"] == 1])
    lines = ["| first − second | NLL difference, nats [95 % interval] |", "| --- | --- |"]
    names = list(groups)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            # Seeds that only one of them has yet are left out, amid `reproduce` for example.
            shared = {r["seed"] for r in groups[one]} & {r["seed"] for r in groups[other]}
            pair = [[r for r in groups[name] if r["seed"] in shared] for name in (one, other)]
            if groups[one][0]["data"] == groups[other][0]["data"] and len(shared) > 1:
                lines.append(f"| {one} − {other} | {paired_interval(*pair)} |")
    return "\n".join(lines)
