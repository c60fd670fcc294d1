"""Writes the page of one sweep or several into one HTML file, from the sweeps' folders alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sweeps.errors import StorageError
from sweeps.planning.plan import check_price
from sweeps.record.events import TrialReported
from sweeps.record.folder import REPORT, SweepFolder, read_events
from sweeps.record.whole_files import write_whole
from sweeps.report import answers, facts, status
from sweeps.report.page import Page, moment, page
from sweeps.report.sweeps_compared import SweepsCompared
from sweeps.report.trial_story import Story
from sweeps.statistics.trials import compare_best
from trainables.inputs import paths

BEGINNING = b"<!doctype html>"


def make(folder: SweepFolder, output: Path | None, now: float, price: float | None = None) -> tuple[Path, Page]:
    """Writes the page of the sweep in a folder; returns the file and the page. See also `output_of` and `read_page`."""
    path = output_of(folder, output)
    found = read_page(folder, now, price)
    write(path, render(found))
    return path, found


def read_page(folder: SweepFolder, now: float, price: float | None = None) -> Page:
    """Returns the page of the sweep in a folder, also while the sweep runs.

    Args:
        now: seconds since the epoch.
        price: price of a GPU-hour, in any currency.

    Raises:
        SweepError: the folder holds no sweep, its event log is damaged, or the price is not valid.
    """
    check_price(price)
    story, log = Story(), status.EventsRead()
    if folder.events.exists():
        for event, offset in read_events(folder.events):
            log.take([(event, offset)])
            story.take(event, log.record)
    stands = status.read_status(folder, now, log)
    story.end(stands.seconds)
    changed = answers.best_against_base(folder, stands.record, stands.selection.winner)
    return page(stands, story, compare_best(folder, stands.record), changed, now, price)


def render(found: Page, reload_seconds: float | None = None) -> str:
    """Renders the page as HTML. All texts are escaped; only plotly's library and charts are not.

    Args:
        reload_seconds: time after which a browser loads the page again; None for a page that stays.
    """
    from sweeps.report import charts  # plotly takes long to import

    drawn = [(chart, chart.html(f"chart-{place}")) for place, chart in enumerate(charts.charts(found))]
    library = charts.library() if drawn else ""
    return _rendered("report.html.j2", page=found, charts=drawn, library=library, reload_seconds=reload_seconds)


def make_of_sweeps(sweeps: SweepsCompared, output: Path | None, now: float, price: float | None = None) -> Path:
    """Writes the page of several sweeps side by side; returns the file. Arguments and errors are those of `make`.

    Without `output`, the file lies beside the first sweep's folder, under a name such as lora-qlora.html.
    """
    from sweeps.report import charts

    check_price(price)
    folders = [SweepFolder(side.status.folder) for side in sweeps.sides]
    name = "-".join(folder.path.name for folder in folders)
    path = output_of(folders[0], output or folders[0].path.with_name(f"{name}.html"))
    logs = [read_events(folder.events) if folder.events.exists() else () for folder in folders]
    reports = [[event for event, _ in log if isinstance(event, TrialReported)] for log in logs]
    chart = charts.of_sweeps(*sweeps.curves(reports))
    html = _rendered(
        "sweeps.html.j2",
        sweeps=sweeps,
        tables=sweeps.tables(price),
        heads=[side.name for side in sweeps.sides],
        unit=facts.unit(sweeps.objective),
        made=moment(now),
        chart=chart,
        plots=() if chart is None else chart.html("chart"),
        library="" if chart is None else charts.library(),
    )
    write(path, html)
    return path


def _rendered(template: str, **given: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(maker=facts.maker(), **given)


def output_of(folder: SweepFolder, given: Path | None) -> Path:
    """Returns `given`, or the file in the sweep's folder for None. Raises StorageError if `given` cannot be written."""
    if given is None:
        return folder.report
    path = paths.at_home(given).absolute()
    try:
        if path.is_dir():
            wrong = f"{path} is a folder: name a file in it, such as {path / REPORT}"
        elif not path.parent.is_dir():
            wrong = f"there is no folder {path.parent}: make it, or name a file elsewhere"
        elif path.exists() and not (path.is_file() and _is_page(path)):
            wrong = f"{path} is there already, and is no HTML page: name another file"
        else:
            return path
    except OSError as error:
        wrong = f"{path}: {error.strerror}"
    raise StorageError(f"--output: {wrong}")


def write(path: Path, html: str) -> None:
    """Writes a page whole. Raises StorageError if the file cannot be written."""
    try:
        write_whole(path, html.encode("utf-8", "replace"))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}; write it elsewhere: --output FILE") from error


def _is_page(path: Path) -> bool:
    """Tells whether a file may be replaced: it is an HTML page, or empty."""
    with path.open("rb") as file:
        start = file.read(len(BEGINNING)).lower()
    return not start or start == BEGINNING
