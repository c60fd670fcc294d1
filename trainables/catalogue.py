"""Finds trainables by name: modules of this package that keep the contract, and the user's own modules and classes."""

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
"""The names of `Trainable` without a default, which every trainable must offer."""


@cache
def _sources() -> dict[str, ast.Module]:
    """Returns name -> syntax tree of each trainable in this package. Imports nothing."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in Path(__file__).parent.glob("*.py")}
    return {name: trees[name] for name in sorted(trees) if _defines(trees[name], "open_pack")}


def _defines(tree: ast.Module, function: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def available() -> dict[str, str]:
    """Returns name -> first line of the docstring, for each trainable in this package. Imports nothing."""
    return {name: (ast.get_docstring(tree) or "").split("\n")[0] for name, tree in _sources().items()}


def has_adapters(name: str) -> bool:
    """Tells whether the best adapters of the trainable's trials can be evaluated again and promoted. Imports nothing.

    False for a user's own trainable that this process has not imported: a reader of a sweep runs no code that the sweep
    names.
    """
    if is_own(name):
        place, kind = own_code.parts(name)
        module = own_code.known(place)
        return hasattr(getattr(module, kind, None) if kind else module, "open_scorer")
    return name in _sources() and _defines(_sources()[name], "open_scorer")


def is_own(name: str) -> bool:
    """Tells whether `name` is that of a user's own trainable, not of this package."""
    return "." in name or ":" in name


def find(name: str) -> Trainable:
    """Returns the trainable NAME of this package, or that at PACKAGE.MODULE, FILE.py, MODULE:CLASS or FILE.py:CLASS.

    Raises:
        NotTrainable: there is none, and the message names what exists; or it cannot be imported or lacks a function.
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
    """Returns the end of a message: where the contract is, and which classes of a module may be meant."""
    own = vars(given).values() if isinstance(given, ModuleType) else ()
    kinds = [each.__name__ for each in own if isinstance(each, type) and each.__module__ == given.__name__]
    meant = f"; its classes are {', '.join(kinds)}: name one with a colon" if kinds else ""
    return f"{meant}; trainables/contract.py says what they do, and a class may inherit the others"


def _imported(place: str, kind: str) -> Any:
    """Returns the module, or an object of its class. Raises whatever its code raises; NotTrainable if it is missing."""
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
    """Tells whether a module or an object has its own attribute of this name, not that of `Trainable`."""
    return hasattr(given, name) and getattr(type(given), name, None) is not getattr(Trainable, name, given)


def _wrong_metrics(given: object) -> str | None:
    if not isinstance(given, Mapping) or EVAL_LOSS not in given or not set(given.values()) <= {"min", "max"}:
        return f"must map names, {EVAL_LOSS} among them, to 'min' or 'max'"
    return wrong_names(given)


class Promotable(Trainable):
    """A trainable that offers `open_scorer`, so that its best adapters can be evaluated again and promoted."""

    def open_scorer(self, base: TrialSpec, cache: Path) -> Scorer:
        """Loads the base onto this process's device, to evaluate adapters again for a promotion."""
        raise NotImplementedError

    def weight_bytes(self, base: TrialSpec) -> int | None:
        """Estimates the bytes of the base's weights on a server; None if unknown."""
        return None

    def scoring_bytes(self, base: TrialSpec, device: Device, *gpus: int) -> int | None:
        """Estimates the memory of a scorer; None if unknown.

        A trainable that spreads its base gets the number of GPUs, and answers for the fullest.
        """
        return None


def of_module(given: Any) -> Trainable:
    """Makes a trainable of a module or an object: its own functions replace the defaults of `Trainable`."""
    kind = Promotable if _offers(given, "open_scorer") else Trainable
    names = {name for name in (*_CONTRACT, *dir(kind)) if not name.startswith("_") and _offers(given, name)}
    own_names = {name: getattr(given, name) for name in names}
    methods = {name: staticmethod(value) if callable(value) else value for name, value in own_names.items()}
    own = type("OfModule", (kind,), {**methods, "spreads": _offers(given, "need_of_gpus")})
    return cast(Trainable, own())


class Room(NamedTuple):
    """The device where a pack trains, and the memory that it may take."""

    device: Device
    gpus: int
    """Number of GPUs that share the base; 1 on a CPU."""
    usable: int
    """Usable bytes; with several GPUs, those of the fullest."""


def metrics(trainable: Trainable, base: TrialSpec) -> Mapping[str, Direction]:
    """Returns the trainable's `metrics`.

    Raises:
        TrainableError: raised by the trainable: it cannot give the metrics that the spec names.
        NotTrainable: `metrics` breaks, or returns no valid metrics.
    """
    with answering("its metrics"):
        found = trainable.metrics(base)
    problem = _wrong_metrics(found)
    if problem is not None:
        raise NotTrainable(f"its metrics {problem}")
    return found


def check_base(trainable: Trainable, base: TrialSpec) -> list[str]:
    """Lists the problems that the trainable finds. Raises `NotTrainable` if its check breaks, or returns no list."""
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
    """Returns the trainable's estimate, for rows of this shape if known; None if the trainable cannot say.

    Raises:
        TrainableError: raised by the trainable.
        NotTrainable: its need breaks, or returns something else.
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
    """Settles the `auto` settings of an open pack; returns its estimate. Arguments and errors are those of `need`."""
    with answering("its settle_auto"):
        settled = _need_or_none(trainable.settle_auto(pack, base, largest, rows, room.usable))
    return need(trainable, base, largest, room.device, rows, room.gpus) if settled is None else settled


def blindness(trainable: Trainable) -> str | None:
    """Returns why the trainable would train on the CPU of a process with GPUs; None if it would not, or if unknown."""
    with answering("its blindness"):
        return trainable.blindness()


def engine(trainable: Trainable, base: TrialSpec) -> str | None:
    """Returns the trainable's `engine`. Raises `NotTrainable` if that breaks, or returns something else."""
    with answering("its engine"):
        name: str | None = trainable.engine(base)
        if not isinstance(name, str | None):
            raise TypeError(f"it answers {legible(repr(name), 100)}, not a name")
    return name


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Runs code of a trainable in the block, and turns its errors into one line with their place.

    Raises:
        TrainableError: raised by the code itself.
        NotTrainable: in place of any other error, and of SystemExit.
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
