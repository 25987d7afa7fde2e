"""Records of runs, and the tables and paired intervals that the pages read from them."""

import json
import math
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch
from scipy import stats

from .data import Data
from .errors import InputError
from .evaluation import (
    energy_distance,
    evaluate,
    mean_and_standard_error,
    modes_found,
    prior_gap,
)
from .models import Sizes
from .training import History
from .vae import VAE

_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string"},
        "data": {"type": "string"},
        "seed": _COUNT,
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
                "mean": _NUMBER,
                "standard_error": {"type": "number", "minimum": 0},
                "per_example": {"type": "array", "items": _NUMBER},
            },
            "required": ["mean", "standard_error", "per_example"],
        },
        "elbo": _NUMBER,
        "reconstruction": _NUMBER,
        "kl": {"type": "array", "items": _NUMBER, "minItems": 1},
        "active_units": _COUNT,
        "prior_gap": _NUMBER,
        "seconds": _NUMBER,
        "device": {"type": "string"},
        "torch": {"type": "string"},
        "commit": {"type": "string"},
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    },
}
SCHEMA["required"] = list(SCHEMA["properties"])
# Of clouds of points alone: of images, neither says much.
SCHEMA["properties"] |= {"energy_distance": _NUMBER, "modes": _COUNT}

Record = dict[str, Any]


def _is_finite_number(checker: Any, value: Any) -> bool:
    """JSON has no NaN, and neither has a table."""
    return jsonschema.Draft202012Validator.TYPE_CHECKER.is_type(value, "number") and math.isfinite(
        value
    )


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite_number),
)


def run_name(model: str, data: str, beta: float, seed: int) -> str:
    """The name of a run, which is the name of its record's file."""
    return f"{data}-{model}{'' if beta == 1 else f'-beta{beta:g}'}-seed{seed}"


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
) -> Record:
    """Evaluate a trained model on its test set and describe the run; `SCHEMA` is the form."""
    device = next(vae.parameters()).device
    data = data.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        result = evaluate(vae, data.test, num_samples)
        gap = prior_gap(vae, data.batch(data.train), data.test).mean().item()
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
        **points,
    }
    # A tuple of sizes becomes the list that it is in the file.
    return dict(json.loads(json.dumps(record)))


def _compare_samples(vae: VAE, data: Data) -> dict[str, float | int]:
    samples, labels = vae.sample(10 * len(data.test)), data.labels["train"]
    return {
        "energy_distance": round(energy_distance(samples, data.test), 5),
        "modes": modes_found(samples, data.train, labels.to(samples.device)),
    }


def book_results() -> Path:
    """The folder of the book's own records, in a checkout or in an installed package."""
    checkout = Path(__file__).parents[1] / "book" / "results"
    return checkout if checkout.is_dir() else Path(__file__).parent / "results"


def current_commit() -> str:
    """The commit of the code that runs, or `unknown` outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # git is not installed
        return "unknown"
    return answer.stdout.strip() or "unknown"


def write_record(record: Record, folder: Path) -> Path:
    """Write a record, whole or not at all.

    Raises:
        InputError: the record breaks the schema.
    """
    _validate(record, "this record")
    name = run_name(record["model"], record["data"], record["beta"], record["seed"])
    return write_whole(record, folder / f"{name}.json")


def read_records(folder: Path, data: str | None = None) -> list[Record]:
    """All records of a folder, in the order of their files, or those of one data set.

    Raises:
        InputError: there is none, or one is damaged or breaks the schema.
    """
    records = read_valid(folder, data, _validate)
    if not records:
        raise InputError(f"no records{f' of {data}' if data else ''} in {folder}: run `reproduce`")
    return records


def write_whole(record: Record, path: Path) -> Path:
    """Write a valid record beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(record) + "\n")
    os.replace(half, path)
    return path


def read_valid(
    folder: Path, data: str | None, validate: Callable[[Any, str], None]
) -> list[Record]:
    """The records of a folder, or those of one data set, each checked by `validate`.

    Raises:
        InputError: one is damaged, or `validate` refuses it.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): delete it and run it again") from error
        validate(record, str(path))
        if data in (None, record["data"]):
            records.append(record)
    return records


def check_schema(schema: dict[str, Any], record: Any, where: str) -> None:
    """Refuse a record that breaks a schema, in one line that says `where` and in which place.

    Raises:
        InputError: it does.
    """
    first = next(iter(_Validator(schema).iter_errors(record)), None)
    if first is not None:
        place = "/".join(str(step) for step in first.absolute_path) or "the record"
        raise InputError(f"{where} breaks the schema at {place}: {first.message[:200]}")


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
    """Student's 95 % interval of the mean of independent values, one a seed."""
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
