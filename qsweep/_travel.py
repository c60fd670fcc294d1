"""Writes rows and code of a notebook as files, named by their content: rows as JSON lines, code as its source.

Nothing is pickled: the sweep file names the files, and the sweep's processes read them as any others.
"""

from __future__ import annotations
import __future__

import ast
import hashlib
import inspect
import json
import symtable
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from sweeps.errors import ConfigError
from trainables.inputs import own_code
from trainables.inputs.legible import legible

FOLDER = "from_python"
"""The folder of these files, beside the folders of the sweeps."""
MOST_CHARACTERS = 10_000
"""Longest text of a notebook's value that travels with a function."""
Code = FunctionType | type
_RULE = "a row holds text, finite numbers, true, false, null, lists and mappings"
_MODULE = "or put all into a .py file and give FILE.py:NAME"


class _CannotTravel(Exception):  # noqa: N818 - reads as what happened
    """Code cannot be written as source; the message says why, and the way out."""


def plain(value: Any) -> Any:
    """Returns the value as a sweep file would hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def rows(field: str, given: Any, folder: Path) -> Any:
    """Writes rows into a file, and returns the file; returns the name of a file or a hub data set as it is.

    Args:
        given: mappings, a DataFrame of pandas, a data set of `datasets`, or a name.

    Raises:
        ConfigError: the value is no collection of rows, or a row holds a value that JSON has no form for.
    """
    if given is None or isinstance(given, str | Path):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(each, str | Path) for each in given):
        return list(given)  # files
    if type(given).__module__.partition(".")[0] == "pandas":
        given = _of_pandas(field, given)
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        kinds = "a list of mappings, a DataFrame, a Dataset, or the path of a file"
        raise ConfigError([f"{field}: is of type {type(given).__name__}: give {kinds}"])
    lines = []
    for number, row in enumerate(given, 1):
        if not isinstance(row, Mapping):
            raise ConfigError([f"{field}: row {number} is of type {type(row).__name__}: give mappings of columns"])
        try:
            lines.append(json.dumps(plain(row), ensure_ascii=False, allow_nan=False).encode())
        except (TypeError, ValueError) as error:
            raise ConfigError([f"{field}: row {number}: {legible(str(error), 200)}: {_RULE}"]) from None
    return _kept(folder, field.removeprefix("data."), ".jsonl", b"".join(line + b"\n" for line in lines))


def _of_pandas(field: str, given: Any) -> Any:
    """Returns the rows of a DataFrame, with dates and missing values in pandas' JSON form."""

    def refuse(value: object) -> None:
        raise TypeError(f"holds a value of type {type(value).__name__}: {_RULE}")

    try:
        text = given.to_json(orient="records", date_format="iso", double_precision=15, default_handler=refuse)
    except UnicodeDecodeError:
        raise ConfigError([f"{field}: holds bytes that are not UTF-8: {_RULE}"]) from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError([f"{field}: {legible(str(error), 200)}"]) from None
    return json.loads(text)


def metric(entry: Any, folder: Path) -> Any:
    """Returns an entry of `evaluation.metrics`.

    A function becomes MODULE:NAME if it can be imported, else FILE:NAME of the file that its source is written to.

    Raises:
        ConfigError: the function cannot travel.
    """
    if isinstance(entry, str | Mapping):
        return entry
    if not isinstance(entry, FunctionType):
        raise ConfigError([f"evaluation.metrics: {legible(repr(entry), 100)}: is no function: write one with def"])
    return _code("evaluation.metrics", entry, folder)


def trainable(given: Any, folder: Path) -> Any:
    """Returns a value of `trainable`.

    A class becomes MODULE:NAME if it can be imported, else FILE:NAME of the file that its source is written to.

    Raises:
        ConfigError: the class cannot travel.
    """
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, type):
        raise ConfigError([f"trainable: is of type {type(given).__name__}: give a class, and no object of it"])
    name = _code("trainable", given, folder)
    changed = _changed(given, name)
    if changed:
        way_out = "write their present values into the class"
        raise ConfigError(
            [f"trainable: {given.__name__}: {', '.join(changed)} changed after the source was run: {way_out}"]
        )
    return name


def _changed(given: type, name: str) -> list[str]:
    """Returns the attributes of a class that differ from its written source."""
    place, kind = own_code.parts(name)
    try:
        written = vars(getattr(own_code.module_of(place), kind))
    except Exception:  # the check of the sweep says why it cannot be imported
        return []

    def told(value: Any) -> Any:
        if isinstance(value, FunctionType):
            defaults = value.__defaults__ if _is_literal(value.__defaults__) else None
            return value.__code__.co_code, value.__code__.co_names, defaults, value.__qualname__
        return value if _is_literal(value) else type(value).__name__

    names = [each for each in vars(given) if not each.startswith("__") or inspect.isfunction(vars(given)[each])]
    return [each for each in names if each not in written or told(vars(given)[each]) != told(written[each])]


def _code(field: str, given: Code, folder: Path) -> str:
    name = given.__name__
    if _is_importable(given):
        return f"{given.__module__}:{name}"
    parts: dict[str, str] = {}
    try:
        _bring(name, given, parts, name)
    except _CannotTravel as error:
        raise ConfigError([f"{field}: {error}, {_MODULE}"]) from None
    content = "\n\n".join(parts.values())
    if any(each.__code__.co_flags & __future__.annotations.compiler_flag for each in _functions(given)):
        content = f"from __future__ import annotations\n\n{content}"
    return f"{_kept(folder, name, '.py', content.encode())}:{name}"


def _functions(code: Code) -> list[FunctionType]:
    """Returns the function, or the methods of the class that its author wrote; a decorator may have made others."""
    if isinstance(code, FunctionType):
        return [code]
    found = filter(inspect.isfunction, vars(code).values())
    around = _globals(code)
    return [each for each in found if each.__globals__ is around and each.__code__.co_filename != "<string>"]


def _is_importable(value: Any) -> bool:
    """Tells whether another process can import the value by its module and name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return bool(name) and module != "__main__" and getattr(sys.modules.get(str(module)), str(name), None) is value


def _globals(code: Code) -> Mapping[str, Any]:
    """Returns the global names of the module that defines the code."""
    return code.__globals__ if isinstance(code, FunctionType) else vars(sys.modules[code.__module__])


def _is_so_named(code: Code) -> bool:
    """Tells whether the code's name still means this code in its module."""
    return _globals(code).get(code.__name__) is code


def _bring(name: str, value: Any, parts: dict[str, str], of: str) -> None:
    """Adds the source that defines `name` as `value` in a new module, after the source of everything that it uses.

    Args:
        parts: name -> source that defines the name.
        of: name of the code that uses `name`, for messages.

    Raises:
        _CannotTravel: the value cannot travel; the message names one way out, and the caller adds `_MODULE`.
    """
    if name in parts:
        return
    if isinstance(value, ModuleType):
        parts[name] = f"import {value.__name__} as {name}\n"
    elif _is_importable(value):
        parts[name] = f"from {value.__module__} import {value.__qualname__} as {name}\n"
    elif isinstance(value, type) and (found_as := vars(value).get("found_as")):
        parts[name] = f"from trainables import catalogue\n\n{name} = type(catalogue.find({found_as!r}))\n"
    elif isinstance(value, Code) and value.__name__ in (name, "<lambda>"):
        text = _source(name, value)
        parts[name] = text  # a function may use itself
        around = _globals(value)
        known = {used: around[used] for used in _names(text) if used in around}
        for used in known:
            _bring(used, known[used], parts, name)
        parts |= {module: f"import {module}\n" for module in _submodules(text, known)}
        parts[name] = parts.pop(name)
    elif isinstance(value, Code) and _is_so_named(value):
        _bring(value.__name__, value, parts, of)
        parts[name] = f"{name} = {value.__name__}\n"
    elif _is_literal(value):
        parts[name] = f"{name} = {value!r}\n"
    else:
        kind = f"{name}, of type {type(value).__name__}"
        raise _CannotTravel(f"{of} uses {kind}, which cannot be copied to the sweep: make it inside {of}")


def _source(name: str, code: Code) -> str:
    """Returns the source of a function or a class. Raises _CannotTravel if the source is unknown or not enough."""
    if code.__name__ == "<lambda>":
        raise _CannotTravel(f"{name}: a lambda cannot be copied to the sweep: write it with def")
    uses = sorted({used for function in _functions(code) for used in function.__code__.co_freevars} - {"__class__"})
    if uses:
        raise _CannotTravel(
            f"{name}: uses variables of the function around it, {', '.join(uses)}: make these inside {name}"
        )
    try:
        text = textwrap.dedent(inspect.getsource(code) if isinstance(code, FunctionType) else _class_source(code))
        ast.parse(text)
    except (OSError, TypeError, SyntaxError):
        raise _CannotTravel(f"{name}: its source is not known here: define it in a cell of its own") from None
    told = vars(code).get("metrics") if isinstance(code, FunctionType) else None
    return text if told is None else f"{text}\n\n{name}.metrics = {dict(told)!r}\n"


def _class_source(kind: type) -> str:
    """Finds the source of a class by its methods: `inspect` alone finds no class of a cell before Python 3.13."""
    own = [each for each in _functions(kind) if each.__qualname__ == f"{kind.__qualname__}.{each.__name__}"]
    if not own:
        return inspect.getsource(kind)
    lines, place = inspect.findsource(own[0])
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            last = node.end_lineno or first
            if first <= place + 1 <= last:
                return "".join(lines[first - 1 : last])
    raise OSError


def _names(source: str) -> list[str]:
    """Returns the names that a source takes from elsewhere."""
    tables, found = [symtable.symtable(source, "<function>", "exec")], set()
    top = tables[0]
    for table in tables:
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            if symbol.is_global() or (table is top and not symbol.is_assigned()):
                found.add(symbol.get_name())
    return sorted(found)


def _submodules(source: str, known: Mapping[str, Any]) -> Iterator[str]:
    """Yields the modules that a source reaches as attributes: a.b of `a.b.f()`, which `import a` may not load."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        at: Any = known.get(node.id) if isinstance(node, ast.Name) else None
        for name in names:
            if not isinstance(at, ModuleType):
                break
            module = f"{at.__name__}.{name}"
            at = getattr(at, name, None)
            if at is not None and sys.modules.get(module) is at:
                yield module


def _is_literal(value: Any) -> bool:
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        text = repr(value)
        return len(text) <= MOST_CHARACTERS and bool(ast.literal_eval(text) == value)
    return False


def _kept(folder: Path, name: str, suffix: str, content: bytes) -> Path:
    """Writes a file whose name has a hash of its content, unless the file exists; returns the file."""
    from sweeps.record.whole_files import make_folder, write_whole

    path = folder / f"{name}_{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
    try:
        if not path.exists():
            make_folder(folder)
            write_whole(path, content)
    except OSError as error:
        raise ConfigError(
            [f"storage: {path} cannot be written: {error.strerror}; choose another: storage=DIR"]
        ) from None
    return path
