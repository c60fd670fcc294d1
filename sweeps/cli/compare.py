"""`qsweep compare SWEEP [TRIAL or SWEEP]...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, mistakes, say
from sweeps.cli.submitted import Address, ask_there
from sweeps.errors import ConfigError
from sweeps.record.run_names import label

if TYPE_CHECKING:
    from sweeps.record.folder import SweepFolder
    from sweeps.report.status import Status
    from sweeps.report.sweeps_compared import SweepsCompared


def compare(
    sweep: LocalSweep,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRIAL|SWEEP]...",
            help=(
                "Compare these, the others with the first: t03, or a key; base for its answers; another sweep, for its "
                "best trial; or SWEEP:t03."
            ),
        ),
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Show the rows that the trial, or the best one, answers wrong.")
    ] = False,
    storage: Storage = Path("results"),
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Compare trials of a sweep, also while it runs: all with the best one, or some side by side; or several sweeps."""
    import time

    ask_there(address, as_json, "compare", sweep, *(trials or ()), *(["--errors"] if errors else []))
    from sweeps.steering import local_sweeps
    from sweeps.steering.naming import compare_named, named

    with mistakes(""):
        found = named([sweep, *(trials or ())], storage, time.time())
        folder, status = found[0].folder, found[0].status
        names = [each.word for each in found if each.word is not None]
        are_several = len(found) > 1 and any(each.word is None or each.folder.path != folder.path for each in found)
        if not are_several and (line := local_sweeps.of_one_name(sweep, storage, folder)) is not None:
            say(line)
        if are_several and errors:
            raise ConfigError(["--errors: is of trials of one sweep: name no other sweep"])
        if are_several:
            told = _sweeps(compare_named(found), as_json)
        else:
            head = {"sweep": status.sweep_id, "dir": str(folder.path), "state": status.state}
            some = _errors if errors else _some
            told = head | (some(folder, status, names, as_json) if names or errors else _all(folder, status, as_json))
    if as_json:
        print(json.dumps(told))


def _sweeps(sweeps: SweepsCompared, as_json: bool) -> dict[str, Any]:
    """Shows several sweeps side by side; returns the same for the JSON line."""
    from sweeps.report.summary import console, tell
    from sweeps.report.trials_compared import tables_of

    out = console(as_json)
    for title, rows in sweeps.tables():
        tell(out, [title])
        for table in tables_of([side.name for side in sweeps.sides], rows, out.width):
            out.print(table)
            out.print()
    tell(out, sweeps.lines())
    return sweeps.as_json()


def _all(folder: SweepFolder, status: Status, as_json: bool) -> dict[str, Any]:
    """Shows all trials and the closing lines of a sweep; returns the same for the JSON line."""
    from sweeps.report import answers, best_compared, facts, trial_tables
    from sweeps.report.status import WORDS
    from sweeps.report.summary import console, show_trials, tell
    from sweeps.report.trials_compared import trial_json
    from sweeps.statistics.trials import compare_best

    record, out = status.record, console(as_json)
    selection, separation = status.selection, compare_best(folder, record)
    tell(out, [f"{status.sweep_id}: {WORDS[status.state]}"])
    show_trials(out, record, separation)
    best, *compared = best_compared.best_lines(record, selection, separation)
    best_trial = selection.winner
    changed = answers.best_against_base(folder, record, best_trial)
    if changed is not None:
        compared.append(f"{changed.line()} (qsweep compare {folder.path.name} {changed.first.name} base shows them)")
    compared += answers.closing(folder, best_trial)
    tell(out, [best, *(f"      {line}" for line in compared), *facts.lines_of(facts.taken(record, status.seconds))])
    return {
        "metric": record.objective.metric,
        "best": best_trial and trial_json(record, best_trial, folder.path) | selection.mark,
        "trials": [trial_json(record, trial, folder.path) for trial in trial_tables.order(record)],
        "comparisons": separation and separation.as_json(),
        "answers": changed and changed.as_json(),
    }


def _errors(folder: SweepFolder, status: Status, names: list[str], as_json: bool) -> dict[str, Any]:
    """Shows the rows that trials, or the best one, answer wrong; returns the same for the JSON line."""
    from sweeps.report import answers, best_compared
    from sweeps.report.summary import console, tell
    from sweeps.steering.answering import trial_named

    record, out = status.record, console(as_json)
    found: list[dict[str, Any]] = []
    best = status.selection.winner
    for trial in [trial_named(name, record) for name in names] or [best]:
        if trial is None:
            raise ConfigError([f"--errors: name a trial: {status.selection.why or 'the base is none'}"])
        wrong = answers.errors(record, answers.of_trial(folder, trial))
        if wrong is None:
            raise ConfigError([f"--errors: {best_compared.without_answers(label(trial.number))}"])
        tell(out, [*([""] if found else []), *wrong.lines()])
        found.append(wrong.as_json())
    return {"errors": found}


def _some(folder: SweepFolder, status: Status, names: list[str], as_json: bool) -> dict[str, Any]:
    """Shows trials side by side; returns the same for the JSON line."""
    from sweeps.report import answers, best_compared
    from sweeps.report.summary import console, tell
    from sweeps.report.trials_compared import TrialsCompared, to_compare
    from sweeps.statistics.trials import compare_chosen
    from sweeps.steering.answering import trial_named
    from trainables.scoring.requests import BASE

    record, out = status.record, console(as_json)
    named = [trial for name in names if (trial := trial_named(name, record)) is not None]
    if not named:
        raise ConfigError(["base: name a trial beside the base"])
    chosen = tuple({trial.trial_key: trial for trial in named}.values())
    trials = chosen if BASE in names else to_compare(record, chosen)
    first, *others = trials
    found = TrialsCompared(record, trials, compare_chosen(folder, record, first, others))
    if first not in named:
        out.print(f"{label(first.number)} is the best trial: name two or more to compare others", markup=False)
        out.print()
    for table in found.tables(out.width):
        out.print(table)
        out.print()
    tell(out, found.lines())
    if not others and BASE not in names:
        tell(out, ["there is no other trial with a value to compare it with"])
    if BASE in names and answers.of_base(folder, record, first) is None:
        tell(out, [best_compared.base_without_answers(record)])
    against = [*([None] if BASE in names else []), *others]
    changed = [each for other in against if (each := answers.of_two(folder, record, first, other))]
    for each in changed:
        tell(out, ["", each.line(), *each.lines()])
    taken = answers.confusion_of(answers.of_trial(folder, first))
    if taken is not None:
        tell(
            out,
            [
                "",
                f"confusion of {label(first.number)} (rows: the expected label, columns: its answer):",
                *taken.text().splitlines(),
            ],
        )
    return {
        **found.as_json(folder.path),
        "answers": [each.as_json() for each in changed],
        "confusion": taken and taken.model_dump(mode="json"),
    }
