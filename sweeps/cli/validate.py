"""`qsweep validate FILE`."""

from __future__ import annotations

from sweeps.cli.shared import Changes, File, load_sweep, mistakes, print_result, say


def validate(file: File, changes: Changes = None) -> None:
    """Check a sweep file, and the local files it names, without starting anything."""
    from sweeps.config.number_words import counted, parts
    from sweeps.planning.advice import never_early

    with mistakes(""):
        sweep = load_sweep(file, changes)
        print_result(f"{file}: valid ({sweep.config.name}, {counted(len(sweep.space.domains), 'searched field')})")
        seen = sweep.preview
        if seen.train_rows is not None:
            print_result(f"data: {parts(seen.train_rows, seen.eval_rows, seen.test_rows)}")
        for warning in (*never_early(sweep.config), *sweep.notices, *sweep.preview.warnings):
            say(f"warning: {warning}")
