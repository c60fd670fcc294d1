"""Trainables by name: the modules of this package that keep the contract, and modules and classes of the user's own."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, NamedTuple, cast

from trainables.contract import Device, Need, Pack, RowShape, Trainable
from trainables.errors import NotTrainable, TrainableError
from trainables.inputs import own_code
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.objective import EVAL_LOSS, Direction, wrong_names
from trainables.scoring.requests import Scorer
from trainables.specs import TrialSpec

_CONTRACT = ("REQUIRES", "check", "fingerprint", "prepare", "open_pack", "need")
"""The names of `Trainable` that have no default: none may be missing."""


@cache
def _sources() -> dict[str, ast.Module]:
    """Name -> source of each trainable in this package; nothing is imported."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in Path(__file__).parent.glob("*.py")}
    return {name: trees[name] for name in sorted(trees) if _defines(trees[name], "open_pack")}


def _defines(tree: ast.Module, function: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def available() -> dict[str, str]:
    """Name -> first line of its docstring, for each trainable in this package; nothing is imported."""
    return {name: (ast.get_docstring(tree) or "").split("\n")[0] for name, tree in _sources().items()}


def has_adapters(name: str) -> bool:
    """Whether the best adapters of the trainable's trials can be evaluated again and promoted; nothing is imported.

    False for one of your own that this process has not imported: whoever only reads a sweep runs no code that it names.
    """
    if is_own(name):
        place, kind = own_code.parts(name)
        module = own_code.known(place)
        return hasattr(getattr(module, kind, None) if kind else module, "open_scorer")
    return name in _sources() and _defines(_sources()[name], "open_scorer")


def is_own(name: str) -> bool:
    """Whether it names a trainable of the user's own, and none of this package."""
    return "." in name or ":" in name


def find(name: str) -> Trainable:
    """The trainable NAME of this package, or at PACKAGE.MODULE, FILE.py, MODULE:CLASS or FILE.py:CLASS.

    Raises:
        NotTrainable: there is none, and the message says what there is; or it cannot be imported, or lacks something.
    """
    names = available()
    if not is_own(name) and name not in names:
        raise NotTrainable(
            f"no trainable {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)}; "
            "one of your own is named PACKAGE.MODULE, MODULE:CLASS or FILE.py:CLASS)"
        )
    path = name if is_own(name) else f"trainables.{name}"
    try:
        with answering("importing it"):
            given = _imported(*own_code.parts(path))
    except NotTrainable as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            lacking = error.__cause__.name
            raise NotTrainable(f"no module {lacking!r} to import the trainable {name!r} from") from None
        raise NotTrainable(f"{path}: {error}") from error
    missing = [name for name in _CONTRACT if not _offers(given, name)]
    if missing:
        raise NotTrainable(f"{path} is not a trainable: it lacks {', '.join(missing)}{_way_out(given)}")
    wrong = [name for name in _CONTRACT if name != "REQUIRES" and not callable(getattr(given, name))]
    if wrong:
        raise NotTrainable(f"{path} is not a trainable: {' and '.join(wrong)} must be callable")
    if not isinstance(given.REQUIRES, frozenset | set) or not {"model", "data"} >= given.REQUIRES:
        raise NotTrainable(f"{path} is not a trainable: REQUIRES must be a frozenset, of 'model' and 'data'")
    problem = _wrong_metrics(getattr(given, "METRICS", Trainable.METRICS))
    if problem is not None:
        raise NotTrainable(f"{path} is not a trainable: METRICS {problem}")
    trainable = of_module(given)
    type(trainable).found_as = name
    return trainable


def _way_out(given: Any) -> str:
    """Where the contract is; of a module without it, the classes that may be meant."""
    own = vars(given).values() if isinstance(given, ModuleType) else ()
    kinds = [each.__name__ for each in own if isinstance(each, type) and each.__module__ == given.__name__]
    meant = f"; its classes are {', '.join(kinds)}: name one with a colon" if kinds else ""
    return f"{meant}; trainables/contract.py says what they do, and a class may inherit the others"


def _imported(place: str, kind: str) -> Any:
    """The module, or an object of its class. Raises what its code raises, and NotTrainable where it is not there."""
    missing = own_code.missing_file(place)
    if missing is not None:
        raise NotTrainable(missing)
    if not place.endswith(".py") and not all(part.isidentifier() for part in place.split(".")):
        raise NotTrainable(f"{place!r} is not the dotted path of a module (trainables here: {', '.join(available())})")
    module = own_code.module_of(place)
    if not kind:
        return module
    classes = {name: each for name, each in vars(module).items() if isinstance(each, type)}
    if kind not in classes:
        raise NotTrainable(f"there is no class {kind!r}{did_you_mean(kind, classes)}")
    try:
        inspect.signature(classes[kind]).bind()
    except TypeError as error:
        raise NotTrainable(f"{kind}() is made without arguments: give its own defaults ({error})") from None
    return classes[kind]()


def _offers(given: Any, name: str) -> bool:
    """Whether a module or an object has something of its own under this name, and not what `Trainable` has."""
    return hasattr(given, name) and getattr(type(given), name, None) is not getattr(Trainable, name, given)


def _wrong_metrics(given: object) -> str | None:
    """What is wrong with a trainable's metrics."""
    if not isinstance(given, Mapping) or EVAL_LOSS not in given or not set(given.values()) <= {"min", "max"}:
        return f"must map names, {EVAL_LOSS} among them, to 'min' or 'max'"
    return wrong_names(given)


class Promotable(Trainable):
    """A trainable whose best adapters can be evaluated again, and so promoted: it offers `open_scorer`."""

    def open_scorer(self, base: TrialSpec, cache: Path) -> Scorer:
        """Loads the base onto this process's device, to evaluate adapters again for a promotion."""
        raise NotImplementedError

    def scoring_bytes(self, base: TrialSpec, device: Device, *gpus: int) -> int | None:
        """Estimates the memory that this takes; None when it is unknown.

        One that spreads its base is told over how many GPUs, and answers for the fullest.
        """
        return None


def of_module(given: Any) -> Trainable:
    """The trainable that a module or an object is: what it offers stands in place of the defaults of `Trainable`."""
    kind = Promotable if _offers(given, "open_scorer") else Trainable
    names = {name for name in (*_CONTRACT, *dir(kind)) if not name.startswith("_") and _offers(given, name)}
    own_names = {name: getattr(given, name) for name in names}
    methods = {name: staticmethod(value) if callable(value) else value for name, value in own_names.items()}
    own = type("OfModule", (kind,), {**methods, "spreads": _offers(given, "need_of_gpus")})
    return cast(Trainable, own())


class Room(NamedTuple):
    """Where a pack trains, and how much memory it may take there."""

    device: Device
    gpus: int
    """Over which the base is spread; a CPU counts as one."""
    usable: int
    """Bytes; of several GPUs those of the fullest."""


def metrics(trainable: Trainable, base: TrialSpec) -> Mapping[str, Direction]:
    """The trainable's `metrics`.

    Raises:
        TrainableError: as the trainable raised it: the metrics that the spec asks for cannot be had.
        NotTrainable: its metrics break, or are none.
    """
    with answering("its metrics"):
        found = trainable.metrics(base)
    problem = _wrong_metrics(found)
    if problem is not None:
        raise NotTrainable(f"its metrics {problem}")
    return found


def check(trainable: Trainable, base: TrialSpec) -> list[str]:
    """What the trainable finds wrong. Raises `NotTrainable` when its check breaks, or answers something else."""
    with answering("its check"):
        problems = trainable.check(base)
    if not isinstance(problems, list) or not all(isinstance(line, str) for line in problems):
        raise NotTrainable(f"its check answers {legible(repr(problems), 100)}, not a list of problems")
    return problems


def need(
    trainable: Trainable,
    base: TrialSpec,
    largest: Sequence[TrialSpec],
    device: Device,
    rows: RowShape | None,
    gpus: int = 1,
) -> Need | None:
    """The trainable's estimate, for rows of this shape where it is known; None when it cannot say.

    Raises:
        TrainableError: as the trainable raised it.
        NotTrainable: its need breaks, or answers something else.
    """
    with answering("its need"):
        if gpus > 1:
            return _need_or_none(trainable.need_of_gpus(base, largest, device, rows, gpus))
        if rows is not None:
            return _need_or_none(trainable.need_of_rows(base, largest, device, rows))
        return _need_or_none(trainable.need(base, largest, device))


def _need_or_none(answer: object) -> Need | None:
    if answer is not None and not isinstance(answer, Need):
        raise TypeError(f"it answers {legible(repr(answer), 100)}, not a Need")
    return answer


def settle_auto(
    trainable: Trainable, pack: Pack, base: TrialSpec, largest: Sequence[TrialSpec], rows: RowShape | None, room: Room
) -> Need | None:
    """Settles what `auto` means for a pack that is open; returns its estimate; arguments and errors as `need`."""
    with answering("its settle_auto"):
        settled = _need_or_none(trainable.settle_auto(pack, base, largest, rows, room.usable))
    return need(trainable, base, largest, room.device, rows, room.gpus) if settled is None else settled


def blindness(trainable: Trainable) -> str | None:
    """Why the trainable would train on the CPU of a process that has GPUs; None where it does not, or cannot tell."""
    with answering("its blindness"):
        return trainable.blindness()


def engine(trainable: Trainable, base: TrialSpec) -> str | None:
    """What the trainable's `engine` says. Raises `NotTrainable` when it breaks, or answers something else."""
    with answering("its engine"):
        name: str | None = trainable.engine(base)
        if not isinstance(name, str | None):
            raise TypeError(f"it answers {legible(repr(name), 100)}, not a name")
    return name


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Code of a trainable runs: whatever it raises is told in a line, with its place.

    Raises:
        TrainableError: as the code raised it.
        NotTrainable: instead of anything else, the end of the process included.
    """
    try:
        yield
    except TrainableError:
        raise
    except (Exception, SystemExit) as error:
        place = extract_tb(error.__traceback__)[-1]
        raise NotTrainable(
            f"{what} raises {type(error).__name__}: {legible(str(error), 500)} ({place.filename}, line {place.lineno})"
        ) from error
