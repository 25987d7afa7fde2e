"""Files of records: one JSON object each, checked against a schema when written and when read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from .errors import InputError
from .files import write_whole

Record = dict[str, Any]
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}


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


def write_valid(record: Record, path: Path) -> Path:
    """Write a valid record, whole or not at all."""
    return write_whole(path, (json.dumps(record) + "\n").encode())


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
