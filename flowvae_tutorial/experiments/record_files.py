"""Files of records: one JSON object each, checked against a schema when written and when read."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..data import Data
from ..errors import InputError
from ..storage.files import write_whole

Record = dict[str, Any]
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}


@cache
def _validator() -> Any:
    # Jupyter brings checkers of formats, with which this import takes longer than that of torch.
    import jsonschema

    standard = jsonschema.Draft202012Validator
    is_type = standard.TYPE_CHECKER.is_type

    def is_finite_number(checker: Any, value: Any) -> bool:
        """JSON has no NaN, and neither has a table."""
        return bool(is_type(value, "number")) and math.isfinite(value)

    types = standard.TYPE_CHECKER.redefine("number", is_finite_number)
    return jsonschema.validators.extend(standard, type_checker=types)


def run_name(model: str, data: str, beta: float, seed: int) -> str:
    """The name of a run, which is the name of its record's file.

    Example:
        >>> from flowvae_tutorial.experiments.record_files import run_name
        >>> run_name("gaussian", "digits", beta=4, seed=0)
        'digits-gaussian-beta4-seed0'
    """
    return f"{data}-{model}{'' if beta == 1 else f'-beta{beta:g}'}-seed{seed}"


def is_on_record(folder: Path, model: str, data: Data, beta: float, seed: int) -> bool:
    """Whether a folder has the record of this run.

    Raises:
        InputError: it has one of other data of your own that have the same name.
    """
    path = folder / f"{run_name(model, data.name, beta, seed)}.json"
    if not path.exists():
        return False
    if data.checksum and _read(path).get("data_checksum") != data.checksum:
        raise InputError(
            f"{path} is of other data that were called {data.name!r}, too: rename the file of one, "
            "or take another folder"
        )
    return True


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete it and run it again") from error


def write_valid(record: Record, path: Path) -> Path:
    """Write a valid record, whole or not at all."""
    return write_whole(path, (json.dumps(record) + "\n").encode())


def read_valid(
    folder: Path, data: str | None, validate: Callable[[Any, str], None]
) -> list[Record]:
    """The records of a folder, or those of one data set, each of these checked by `validate`.

    Raises:
        InputError: one is damaged, or `validate` refuses it.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        # Long records of other data sets are not worth the wait.
        if data is None or not isinstance(record, dict) or record.get("data", data) == data:
            validate(record, str(path))
            records.append(record)
    return records


def check_schema(schema: dict[str, Any], record: Any, where: str) -> None:
    """Refuse a record that breaks a schema, in one line that says `where` and in which place.

    Raises:
        InputError: it does.
    """
    first = next(iter(_validator()(schema).iter_errors(record)), None)
    if first is not None:
        place = "/".join(str(step) for step in first.absolute_path) or "the record"
        raise InputError(f"{where} breaks the schema at {place}: {first.message[:200]}")
