"""Grades answers that are JSON: json_valid by their form, json_fields by their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from trainables.grading.grader import Grader, RightOrWrong
from trainables.inputs import json_text
from trainables.inputs.legible import legible
from trainables.objective import Direction


class JsonValid(RightOrWrong):
    """Grades whether the answer is JSON and nothing else: no NaN, no key twice in an object, at most 100 levels."""

    metric = "json_valid"
    verdict = "valid"

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        return _read(answer) is not None


def read_schema(value: object) -> object:
    """Returns the JSON schema: from the file if `value` is a path, else `value`. Raises ValueError if it is none."""
    from jsonschema import SchemaError

    try:
        schema = json_text.parse(Path(value).read_bytes()) if isinstance(value, str) else value
        if not isinstance(schema, dict):
            raise ValueError("it must be an object, or the path of a file that holds one")
        _validator(schema).check_schema(schema)
    except OSError as error:
        raise ValueError(f"{value!r} cannot be read: {error.strerror}") from None
    except (ValueError, SchemaError) as error:
        why = error.message if isinstance(error, SchemaError) else str(error)
        raise ValueError(f"{legible(repr(value), 100)} is no JSON schema: {legible(why, 200)}") from None
    return schema


class JsonFields(Grader):
    """Grades the answer's fields against those of the completion, a JSON object, by F1, precision and recall.

    json_fields_exact tells whether all fields are right and there is no other field. A field is a value within objects
    and lists, with its path. An answer that is no object scores 0.
    """

    json_schema: Annotated[dict[str, Any], BeforeValidator(read_schema)] | None = Field(None, alias="schema")
    """A JSON schema or its path. The share of valid answers is a metric of its own, json_fields_valid."""

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """See `Grader.metrics`."""
        valid = [] if self.json_schema is None else ["json_fields_valid"]
        own = ["json_fields", "json_fields_precision", "json_fields_recall", "json_fields_exact"]
        return dict.fromkeys([*own, *valid], "max")

    @property
    def verdicts(self) -> Mapping[str, str]:
        """See `Grader.verdicts`."""
        words = {"json_fields_exact": "right", "json_fields_valid": "valid"}
        return {metric: word for metric, word in words.items() if metric in self.metrics}

    def grade(self, row: Mapping[str, Any], expected: str, answer: str) -> Mapping[str, float]:
        """See `Grader.grade`."""
        right, given = _read(expected), _read(answer)
        if right is None or not isinstance(right.value, dict):
            raise ValueError("the completion is no JSON object")
        if given is None or not isinstance(given.value, dict):
            return dict.fromkeys(self.metrics, 0.0)
        wanted, found = set(_fields(right.value)), set(_fields(given.value))
        hits = len(wanted & found)
        f1, precision, recall = 2 * hits / (len(wanted) + len(found)), hits / len(found), hits / len(wanted)
        scores = [f1, precision, recall, float(wanted == found)]
        if self.json_schema is not None:
            scores.append(float(_is_valid(given.value, self.json_schema)))
        return dict(zip(self.metrics, scores, strict=True))


class _Json(NamedTuple):
    value: Any


def _read(text: str) -> _Json | None:
    with suppress(ValueError):
        return _Json(json_text.parse(text.strip(), unique_keys=True, allow_nan=False))
    return None


def _fields(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yields path and value of each part without parts. 1 and 1.0 are equal; true and 1 differ, unlike in Python."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _fields(part, (*path, key))
    else:
        yield (path, str(value), True) if isinstance(value, bool | dict | list) else (path, value, False)


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    # An empty registry: the schema does not make this machine fetch another one.
    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())


def _is_valid(value: object, schema: Mapping[str, Any]) -> bool:
    from referencing.exceptions import Unresolvable

    try:
        return bool(_validator(schema).is_valid(value))
    except ArithmeticError:  # a number of the answer is too large to be divided
        return False
    except Unresolvable as error:
        raise ValueError(f"the schema refers to {error.ref!r}, which is not in it: write it under $defs") from None
