"""Records: what was run and what came of it, one JSON file each, whatever they are records of.

A kind of record has a form, a name for its files, and figures that must agree. `describe` makes
a record, `write` and `read` are the one way in and out of a file, and `find` reads a folder.
"""

import hashlib
import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..history import History
from ..storage.files import write_whole
from ..storage.schema import COUNT as COUNT
from ..storage.schema import NAME as NAME
from ..storage.schema import NUMBER as NUMBER
from ..storage.schema import NUMBERS as NUMBERS
from ..storage.schema import OBJECT as OBJECT
from ..storage.schema import POSITIVE as POSITIVE
from ..storage.schema import TEXT as TEXT
from ..storage.schema import Form as Form
from ..storage.schema import breach
from ..storage.schema import form as form

Record = dict[str, Any]
# No record comes near it, and reading a longer file could fill the memory.
LARGEST = 64 * 2**20

CURVES = form({"loss": NUMBERS, "reconstruction": NUMBERS, "kl": NUMBERS})
# Of every record; of every record but the first trials and solutions; of every trained model.
CODE = {"torch": TEXT, "commit": TEXT}
DAY = {"device": TEXT, "date": TEXT | {"pattern": r"^\d{4}-\d{2}-\d{2}$"}}
TRAINED = {"model": NAME, "data": NAME, "seed": COUNT, "epochs": POSITIVE}


@dataclass(frozen=True)
class Kind:
    """What the records of one kind have in common."""

    plural: str
    made_by: str
    """The command that makes them."""
    schema: Form
    name: Callable[[Record], str | None]
    """Of the file, without its suffix; none if the record does not say."""
    contradiction: Callable[[Record], str | None] = lambda record: None
    """Two things in a record, valid each, that cannot both be true."""


def run_name(model: str, data: str, beta: float, seed: int) -> str:
    """The name of a run, which is the name of its record's file.

    Example:
        >>> from flowvae_tutorial.experiments.record_files import run_name
        >>> run_name("gaussian", "digits", beta=4, seed=0)
        'digits-gaussian-beta4-seed0'
    """
    # Two weights that differ in the seventh digit are two runs.
    weight = f"{beta:g}" if float(f"{beta:g}") == beta else repr(float(beta))
    return f"{data}-{model}{'' if beta == 1 else f'-beta{weight}'}-seed{seed}"


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


def describe(device: torch.device | str, commit: str, **what: Any) -> Record:
    """A record of `what` was run and found, made today on this device by this code."""
    made = {"device": str(device), "torch": torch.__version__, "commit": commit}
    made["date"] = date.today().isoformat()
    # A tuple of sizes becomes the list that it is in the file.
    return dict(json.loads(json.dumps(what | made)))


def curves(history: History) -> dict[str, list[float]]:
    """The curves of a training as a record holds them, in nats per example."""
    return {
        name: [round(value, 3) for value in getattr(history, name)] for name in CURVES["required"]
    }


def write(kind: Kind, record: Record, folder: Path) -> Path:
    """Write a record and its checksum, whole or not at all.

    Raises:
        InputError: the record breaks the schema of its kind, contradicts itself, or has NaN in it
            or what else is no JSON.
    """
    _check(kind, record, "this record")
    try:
        sum_ = _sum(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"this record cannot be written as JSON: {error}") from error
    content = json.dumps(record | {"sha256": sum_}) + "\n"
    return write_whole(folder / f"{kind.name(record)}.json", content.encode())


def read(kind: Kind, path: Path) -> Record:
    """Read what `write` wrote; the checksum stays in the file.

    Raises:
        InputError: the file was changed since, is no record of this kind, or has another's name.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise InputError(f"{path} is no record: that is a file of at most {LARGEST >> 20} MiB")
    try:
        record = json.loads(path.read_bytes().decode())
        if not isinstance(record, dict) or record.pop("sha256", None) != _sum(record):
            raise ValueError("its checksum is missing or wrong")
        _check(kind, record, str(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        ours = book_results().resolve() in path.resolve().parents
        raise InputError(
            f"{path} is damaged ({error}): "
            + (
                "check it out, or install the package, again"
                if ours
                else "delete it and run it again"
            )
        ) from error
    if (name := kind.name(record)) not in (None, path.stem):
        holds = f"{path} holds the record {name[:200]!r}"
        raise InputError(f"{holds}: a copy under another name is no run")
    return record


def find(kind: Kind, folder: Path, data: str | None = None) -> dict[str, Record]:
    """All records of a folder by name, in the order of their files, or those of one data set.

    Raises:
        InputError: there is none, or `read` refuses one, of whatever data set.
    """
    every = {path.stem: read(kind, path) for path in sorted(folder.glob("*.json"))}
    found = {name: record for name, record in every.items() if data in (None, record.get("data"))}
    if not found:
        of = f" of {data}" if data else ""
        raise InputError(f"no {kind.plural}{of} in {folder}: run `{kind.made_by}`")
    return found


def _sum(record: Record) -> str:
    """SHA-256 of the canonical JSON: sorted, without spaces, in UTF-8; NaN has none."""
    canonical = json.dumps(
        record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check(kind: Kind, record: Record, where: str) -> None:
    if (wrong := breach(kind.schema, record)) is not None:
        raise InputError(f"{where} breaks the schema at {wrong}")
    wrong = _of_epochs(record) or kind.contradiction(record)
    if wrong:
        raise InputError(f"{where} contradicts itself at {wrong}")


def _of_epochs(record: Record) -> str | None:
    if record.get("best_epoch", 0) > record.get("epochs", math.inf):
        return f"best_epoch: {record['best_epoch']} of {record['epochs']}"
    for name, curve in record.get("history", {}).items():
        if len(curve) != record["epochs"]:
            return f"history/{name}: {len(curve)} entries for {record['epochs']} epochs"
    return None
