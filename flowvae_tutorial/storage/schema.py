"""Schemas of what is read from files, and the one check of them."""

import sys
from functools import cache
from typing import Any

Form = dict[str, Any]

TEXT: Form = {"type": "string"}
# Files are named by it, and are to stay in their folder.
NAME: Form = TEXT | {"maxLength": 200, "pattern": r"\A[^/\\\0]*\Z"}
OBJECT: Form = {"type": "object"}
NUMBER: Form = {"type": "number"}
NUMBERS: Form = {"type": "array", "items": NUMBER}
COUNT: Form = {"type": "integer", "minimum": 0}
POSITIVE: Form = COUNT | {"minimum": 1}


def form(required: Form, optional: Form | None = None) -> Form:
    """The schema of an object that has these fields and no others."""
    fields = required | (optional or {})
    rest = {"additionalProperties": False, "properties": fields, "required": list(required)}
    return OBJECT | rest


def breach(schema: Form, content: Any) -> str | None:
    """Where and how `content` breaks a schema first, in one line; none if it does not.

    Example:
        >>> from flowvae_tutorial.storage.schema import COUNT, breach, form
        >>> breach(form({"seed": COUNT}), {"seed": -1})
        'seed: -1 is less than the minimum of 0'
    """
    first = next(iter(_validator()(schema).iter_errors(content)), None)
    if first is None:
        return None
    place = "/".join(str(step) for step in first.absolute_path) or "the top"
    said = f"{place[:200]}: {first.message[:200]}"
    return "".join(c if c.isprintable() else "?" for c in said)


@cache
def _validator() -> Any:
    # Jupyter brings checkers of formats, with which this import takes longer than that of torch.
    import jsonschema

    standard = jsonschema.Draft202012Validator
    is_type = standard.TYPE_CHECKER.is_type

    def is_number(_: Any, value: Any) -> bool:
        """JSON has no NaN and no end of digits; a table has neither the one nor the other."""
        return bool(is_type(value, "number")) and abs(value) <= sys.float_info.max

    def is_integer(_: Any, value: Any) -> bool:
        """JSON's 3.0 is one, and Python's is no size of a tensor."""
        whole = isinstance(value, int) and bool(is_type(value, "integer"))
        return whole and abs(value) < 2**63

    def is_float(_: Any, value: Any) -> bool:
        """NaN and the infinities are, which Python's `json` writes and reads."""
        return isinstance(value, float)

    def items(validator: Any, each: Any, instance: Any, schema: Any) -> Any:
        """Most of a record is numbers, and the general way takes seconds for a folder."""
        numbers = each == NUMBER and isinstance(instance, list)
        if not (numbers and all(is_number(None, value) for value in instance)):
            yield from standard.VALIDATORS["items"](validator, each, instance, schema)

    types = standard.TYPE_CHECKER.redefine_many(
        {"number": is_number, "integer": is_integer, "float": is_float}
    )
    return jsonschema.validators.extend(standard, {"items": items}, type_checker=types)
