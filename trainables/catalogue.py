"""Trainables by name: the modules of this package that keep the contract, and any importable module by dotted path."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple, Protocol, cast

from trainables.contract import (
    Device,
    LookedUp,
    Need,
    Pack,
    Preview,
    RowShape,
    Target,
    TargetModules,
    Trainable,
)
from trainables.errors import NotTrainable, TrainableError
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.objective import EVAL_LOSS, Direction, wrong_names
from trainables.scoring.requests import Scorer
from trainables.specs import TrialSpec

_CONTRACT = ("REQUIRES", "check", "fingerprint", "prepare", "open_pack", "need")
"""The names of `Trainable`: none may be missing."""


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
    if "." in name:
        return hasattr(sys.modules.get(name), "open_scorer")
    return name in _sources() and _defines(_sources()[name], "open_scorer")


def find(name: str) -> Trainable:
    """The trainable called `name`, or at the dotted path `name`.

    Raises:
        NotTrainable: there is none, and the message says what there is; or it cannot be imported, or lacks something.
    """
    names = available()
    if name.startswith(".") or name.endswith(".") or ".." in name:
        raise NotTrainable(f"{name!r} is not the dotted path of a module (trainables here: {', '.join(names)})")
    path = name if "." in name else f"trainables.{name}"
    if "." not in name and name not in names:
        raise NotTrainable(
            f"no trainable {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)}; "
            "one of your own is named PACKAGE.MODULE)"
        )
    try:
        with answering("importing it"):
            module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise NotTrainable(f"no module {error.name!r} to import the trainable {name!r} from") from None
    except NotTrainable as error:
        raise NotTrainable(f"{path}: {error}") from error
    missing = [name for name in _CONTRACT if not hasattr(module, name)]
    if missing:
        raise NotTrainable(f"{path} is not a trainable: it lacks {', '.join(missing)}")
    wrong = [name for name in _CONTRACT if name != "REQUIRES" and not callable(getattr(module, name))]
    if wrong:
        raise NotTrainable(f"{path} is not a trainable: {' and '.join(wrong)} must be callable")
    if not isinstance(module.REQUIRES, frozenset | set) or not {"model", "data"} >= module.REQUIRES:
        raise NotTrainable(f"{path} is not a trainable: REQUIRES must be a frozenset, of 'model' and 'data'")
    problem = _wrong_metrics(getattr(module, "METRICS", {EVAL_LOSS: "min"}))
    if problem is not None:
        raise NotTrainable(f"{path} is not a trainable: METRICS {problem}")
    return cast(Trainable, module)


def _wrong_metrics(given: object) -> str | None:
    """What is wrong with a trainable's metrics."""
    if not isinstance(given, Mapping) or EVAL_LOSS not in given or not set(given.values()) <= {"min", "max"}:
        return "must map names, eval_loss among them, to 'min' or 'max'"
    return wrong_names(given)


class Offers(Protocol):
    """What a trainable may offer beside its contract. Ask for none of it before `hasattr` has found it."""

    METRICS: Mapping[str, Direction]
    """Name of each metric of its evaluations, `eval_loss` among them -> which value is better ("min" or "max").

    Without it `eval_loss` is the only one.
    """

    def look_up(self, base: TrialSpec, cache: Path) -> LookedUp:
        """Asks the network, before a sweep starts, what only it can say. Answers within seconds."""

    def fetch_config(self, base: TrialSpec) -> bool:
        """Fetches what a plan needs of the base and no file here says, within seconds; whether it is there now."""

    def preview(self, base: TrialSpec) -> Preview:
        """Looks into local data, for `validate` and `plan`. Without torch or the network."""

    def engine(self, base: TrialSpec) -> str | None:
        """Names what will compute the losses; None where it cannot say before the base is loaded."""

    def need_of_rows(
        self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape
    ) -> Need | None:
        """As `Trainable.need`, for rows whose shape is known."""

    def need_of_gpus(
        self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape | None, gpus: int
    ) -> Need | None:
        """As `Trainable.need`, on the fullest of the GPUs over which it spreads its base. `rows` is None if unknown."""

    def settle_auto(
        self, pack: Pack, base: TrialSpec, largest: Sequence[TrialSpec], rows: RowShape | None, usable: int
    ) -> Need | None:
        """Settles what `auto` leaves open in a pack, before its first trial, for so many bytes. Returns its need."""

    def resolve_targets(self, base: TrialSpec, values: Sequence[TargetModules], cache: Path) -> Sequence[Target]:
        """Returns what each of `values` means on the base, in order, without weights. Raises `ModelError`."""

    def blindness(self) -> str | None:
        """Why its libraries see no GPU in this process, and the way out; None where they do."""

    def open_scorer(self, base: TrialSpec, cache: Path) -> Scorer:
        """Loads the base onto this process's device, to evaluate adapters again for a promotion."""

    def scoring_bytes(self, base: TrialSpec, device: Device) -> int | None:
        """Estimates the memory that this takes; None when it is unknown.

        One that offers `need_of_gpus` is told as a third argument over how many GPUs its base is spread, and answers
        for the fullest.
        """


class Room(NamedTuple):
    """Where a pack trains, and how much memory it may take there."""

    device: Device
    gpus: int
    """Over which the base is spread; a CPU counts as one."""
    usable: int
    """Bytes; of several GPUs those of the fullest."""


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

    A trainable that does not ask for the shape is told the length of the longest row as data.max_length. One that does
    not spread its base over several GPUs needs the same on the first of them.

    Raises:
        TrainableError: as the trainable raised it.
        NotTrainable: its need breaks, or answers something else.
    """
    with answering("its need"):
        if gpus > 1 and hasattr(trainable, "need_of_gpus"):
            estimate = cast(Offers, trainable).need_of_gpus(base, largest, device, rows, gpus)
        elif rows is not None and hasattr(trainable, "need_of_rows"):
            estimate = cast(Offers, trainable).need_of_rows(base, largest, device, rows)
        else:
            estimate = trainable.need(_cut(base, rows), [_cut(spec, rows) for spec in largest], device)
        return _need_or_none(estimate)


def _need_or_none(answer: object) -> Need | None:
    if answer is not None and not isinstance(answer, Need):
        raise TypeError(f"it answers {legible(repr(answer), 100)}, not a Need")
    return answer


def settle_auto(
    trainable: Trainable, pack: Pack, base: TrialSpec, largest: Sequence[TrialSpec], rows: RowShape | None, room: Room
) -> Need | None:
    """Settles what `auto` means for a pack that is open; returns its estimate; arguments and errors as `need`."""
    if not hasattr(trainable, "settle_auto"):
        return need(trainable, base, largest, room.device, rows, room.gpus)
    with answering("its settle_auto"):
        return _need_or_none(cast(Offers, trainable).settle_auto(pack, base, largest, rows, room.usable))


def blindness(trainable: Trainable) -> str | None:
    """Why the trainable would train on the CPU of a process that has GPUs; None where it does not, or cannot tell."""
    if not hasattr(trainable, "blindness"):
        return None
    with answering("its blindness"):
        return cast(Offers, trainable).blindness()


def _cut(spec: TrialSpec, rows: RowShape | None) -> TrialSpec:
    """The spec with data.max_length as low as the rows really are: that is what memory is needed for."""
    if spec.data is None or rows is None or rows.longest >= spec.data.max_length:
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": max(8, rows.longest)})})


def engine(trainable: Trainable, base: TrialSpec) -> str | None:
    """What the trainable's `engine` says; None where it offers none.

    Raises:
        NotTrainable: its engine breaks, or answers something else.
    """
    if not hasattr(trainable, "engine"):
        return None
    with answering("its engine"):
        name: str | None = trainable.engine(base)
        if not isinstance(name, str | None):
            raise TypeError(f"it answers {legible(repr(name), 100)}, not a name")
    return name


def metrics(trainable: Trainable) -> Mapping[str, Direction]:
    """The metrics of the trainable's evaluations, each with the direction in which it is better."""
    offered: Mapping[str, Direction] = getattr(trainable, "METRICS", {EVAL_LOSS: "min"})
    return offered


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Code of a trainable runs: whatever it raises is told in a line, with its place.

    Raises:
        TrainableError: as the code raised it.
        ModuleNotFoundError: likewise.
        NotTrainable: instead of anything else, the end of the process included.
    """
    try:
        yield
    except (TrainableError, ModuleNotFoundError):
        raise
    except (Exception, SystemExit) as error:
        place = extract_tb(error.__traceback__)[-1]
        raise NotTrainable(
            f"{what} raises {type(error).__name__}: {legible(str(error), 500)} ({place.filename}, line {place.lineno})"
        ) from error
