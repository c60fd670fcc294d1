"""Messages about mistakes in a sweep file. Each names the field, its value, the rule and the way out. Pure."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sweeps.config import components, other_tools
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import hidden
from trainables.inputs.legible import legible
from trainables.inputs.similar import closest, did_you_mean

_MOST_SHOWN = 200
_RULES = {
    "missing": "is required",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "invalid_key": "must be text, as all keys are",
}
_NUMBERS = {
    "must be a whole number": re.compile(r"-?(0|[1-9][0-9]*)"),
    "must be a number": re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?"),
}
"""Rule for a number -> the form of such a number."""
_MAIN_KEYS = {
    "model": "source",
    "quantization": "scheme",
    "data": "train",
    "objective": "metric",
    "scheduler": "kind",
    "searcher": "kind",
    "tracking": "uri",
    "promotion": "model",
}
"""Section -> the key that is meant if the file gives a single word in place of the section."""
_WAYS_OUT = {
    "scheduler.metric": ", or left out: with evaluation.when: every it then goes by the objective, a score among them",
    "data.test_examples": ", or null for no test rows",
}
"""Field with fixed words -> a further way out in the message."""
_COMPARISONS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def of_validation(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    """Returns one line per wrong field of `raw`, in the order of the file's sections."""
    rules: dict[str, list[str]] = {}
    values: dict[str, object] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts only the right items; wrong items have errors of their own
        path = _path(detail["loc"], raw, keep_last=detail["type"] == "missing")
        field = ".".join(path)
        rule = _rule(detail, path, raw)
        rules.setdefault(field, [])
        if rule not in rules[field]:
            rules[field].append(rule)
        values[field] = detail["input"]
    return [_line(field, values[field], rules[field]) for field in rules]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Returns the message that `name` is unknown, with a similar name and all known names."""
    names = list(known)
    return f"unknown {what} {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)})"


def unknown_field(name: str, known: Sequence[str]) -> str:
    """Returns the message that a dotted field is unknown."""
    if (last := name.rpartition(".")[2]) in other_tools.NOT_HERE:
        return f"field {name!r} is not supported: {other_tools.NOT_HERE[last]}"
    return f"unknown field {name!r}{meant_field(name, known)} (there are: {', '.join(known)})"


def meant_field(name: str, known: Sequence[str]) -> str:
    """Returns the end of a message with a similar field, first one of another section with the same last part."""
    last = name.rpartition(".")[2]
    same = [field for field in known if field in (name, other_tools.KEYS.get(last)) or field.endswith(f".{last}")]
    return f"; did you mean {same[0]}?" if same else did_you_mean(name, known)


def _line(field: str, value: object, rules: Sequence[str]) -> str:
    is_secret = field in ("notify", "notify.url_env")  # a URL that was written there by mistake
    silent = isinstance(value, Mapping) or rules == ["is required"] or is_secret
    silent = silent or rules[0].startswith(("unknown key", "not supported"))
    shown = "" if silent else f" {_shown(value, field)}"
    return f"{field or 'the sweep file'}:{shown} {_alternatives(rules)}{_without_quotes(value, rules)}"


def _without_quotes(value: object, rules: Sequence[str]) -> str:
    """Returns the end of a message on a number in quotes; empty for any other value."""
    form = next((_NUMBERS[rule] for rule in rules if rule in _NUMBERS), None)
    is_quoted = form is not None and isinstance(value, str) and form.fullmatch(value) is not None
    return f": write {value} without quotes" if is_quoted else ""


def _alternatives(rules: Sequence[str]) -> str:
    """Joins rules of which one must hold: "must be a whole number or 'auto'"."""
    first, *others = rules
    verb = "must be " if first.startswith("must be ") else ""
    return " or ".join([first, *(rule.removeprefix(verb) for rule in others)])


def _shown(value: object, field: str) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return legible(hidden(repr(list(value) if isinstance(value, tuple) else value)), _MOST_SHOWN)


def _path(loc: Sequence[str | int], raw: object, keep_last: bool) -> list[str]:
    """Returns the parts of a pydantic location that are in the file, without names of union branches."""
    path: list[str] = []
    at: Any = raw
    for place, part in enumerate(loc):
        known = part in at if isinstance(at, Mapping) else isinstance(at, list) and isinstance(part, int)
        if known:
            at = at[part]
        elif not (keep_last and place == len(loc) - 1):
            continue
        path.append(str(part))
    return path


def _rule(detail: Any, path: Sequence[str], raw: Mapping[str, Any]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, raw)
    if kind == "value_error":
        return str(context["error"])
    if kind == "union_tag_invalid":
        return unknown("kind", str(context["tag"]), components.modules(components.SECTIONS[path[0]]))
    if kind == "tuple_type" and isinstance(detail["input"], Mapping):
        return f"must be a list: write [{_shown(detail['input'], '')}]"
    if kind == "string_type" and isinstance(detail["input"], Mapping):
        return "must be text: braces need quotes in YAML"
    if kind in ("model_type", "model_attributes_type") and isinstance(detail["input"], str):
        return _RULES[kind] + _section_for(detail["input"], ".".join(path))
    if kind == "literal_error":
        choices = [choice.strip(" '") for choice in context["expected"].replace(" or ", ",").split(",")]
        meant = did_you_mean(str(detail["input"]), choices)
        return f"must be {context['expected']}{meant}{_WAYS_OUT.get('.'.join(path), '')}"
    if kind in _COMPARISONS:
        key, text = _COMPARISONS[kind]
        return f"{text} {context[key]}"
    if kind == "string_pattern_mismatch":
        return (
            "must hold only letters, digits, dot, dash and underscore, begin with a letter or digit, and have 100 "
            "characters at most"
        )
    return str(_RULES.get(kind, detail["msg"]))


def _section_for(word: str, section: str) -> str:
    """Returns the end of a message on a word in place of a section: how to write the section; or nothing."""
    main = _MAIN_KEYS.get(section)
    if main == "kind" and word not in (kinds := components.modules(components.SECTIONS[section])):
        return f": write {{kind: NAME}}{did_you_mean(word, kinds)} (there are: {', '.join(kinds)})"
    return f": write {{{main}: {_shown(word, 'tracking.uri')}}}" if main else ""


def _unknown_key(path: Sequence[str], raw: Mapping[str, Any]) -> str:
    here = _keys(path[:-1], raw)
    name = path[-1]
    if len(path) == 2 and (others := _kinds_with(path[0], name)):
        section, own = path[0], components.named(components.SECTIONS[path[0]], raw.get(path[0]))
        kinds = " and ".join(others)
        return f"is for kind {kinds}, not {own}: leave it out, or set {section}.kind={others[0]}"
    if name in other_tools.NOT_HERE:
        return f"not supported: {other_tools.NOT_HERE[name]}"
    close = closest(name, here)
    # The same name in another section is a better hint than a similar name here.
    meant = elsewhere(name) or (".".join([*path[:-1], close[0]]) if close else None)
    hint = f"; did you mean {meant}?" if meant else ""
    return f"unknown key{hint} (keys here: {', '.join(here)})"


def _kinds_with(section: str, name: str) -> list[str]:
    if section not in components.SECTIONS:
        return []
    kind = components.SECTIONS[section]
    return [other for other in components.modules(kind) if name in components.keys(kind, other)]


def elsewhere(name: str) -> str | None:
    """Returns the dotted key that ends in `name`, or that another tool calls so; None if there is none."""
    if name in other_tools.KEYS:
        return other_tools.KEYS[name]
    for section in SweepConfig.model_fields:
        if name in _keys([section], {}):
            return f"{section}.{name}"
    return None


def _keys(path: Sequence[str], raw: Mapping[str, Any]) -> list[str]:
    if path and path[0] in components.SECTIONS:
        name = components.named(components.SECTIONS[path[0]], raw.get(path[0]))
        known = name in components.modules(components.SECTIONS[path[0]])
        return sorted(components.keys(components.SECTIONS[path[0]], name)) if known else ["kind"]
    model: type[BaseModel] | None = SweepConfig
    for part in path:
        if part.isdecimal():
            continue  # an item of a list
        model = _model(model.model_fields[part].annotation) if model and part in model.model_fields else None
    return list(model.model_fields) if model is not None else []


def _model(annotation: Any) -> type[BaseModel] | None:
    """Returns the model in an annotation such as `ModelSpec | None` or `tuple[Guard, ...]`."""
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    branches = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    branches = tuple(get_args(branch)[0] if get_origin(branch) is Annotated else branch for branch in branches)
    return next((b for b in branches if isinstance(b, type) and issubclass(b, BaseModel)), None)
