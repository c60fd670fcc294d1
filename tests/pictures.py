"""Makes the pictures in docs/pictures/ from a real run of the quickstart: `make pictures`.

The quickstart runs first, which takes some minutes; `make pictures FROM=FOLDER` takes a folder in which it has run. The
pictures are the head of its report, MLflow's view of its trials, the live table when a trial went on for the last time,
and the plan.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import browsers
from PIL import Image
from rich.console import Console
from rich.text import Text

from sweeps.record.events import DataPrepared, TrialReported, TrialStarted
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import page_file, status
from sweeps.report.live_table import Table
from trainables.contract import StepRecord

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
QSWEEP = (sys.executable, "-m", "sweeps")
WIDTH = 1400
COLUMNS = 124
"""Width of the terminal in the pictures."""
MOST_BYTES = 200_000
COLOURS = 256
_TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 20px 26px; background: #14181f; color: #e4e8ee; }}
pre {{ margin: 0; font: 17px/1.45 "DejaVu Sans Mono", ui-monospace, monospace; }}
</style><pre>{code}</pre>"""


def main(given: list[str]) -> None:
    """Makes all pictures."""
    with (
        TemporaryDirectory(prefix="qsweep-", ignore_cleanup_errors=True) as scratch,
        browsers.browser(WIDTH) as browser,
    ):
        if not given:
            qsweep(Path(scratch), "launch", "quickstart", stdout=None)
        folder = Path(given[0]).absolute() if given else Path(scratch)
        sweep = SweepFolder(folder / "results" / "quickstart")
        PICTURES.mkdir(exist_ok=True)
        page = Path(scratch) / "page.html"
        for name, html in {
            "report": report_head(sweep),
            "live-table": terminal("qsweep launch quickstart", live_table(sweep)),
            "plan": terminal("qsweep plan quickstart", qsweep(folder, "plan", "quickstart", stdout=subprocess.PIPE)),
        }.items():
            page.write_text(html)
            browser.open(page.as_uri(), "document.readyState === 'complete'")
            save(name, browser.picture(browser.run("document.documentElement.getBoundingClientRect().height")))
        save("mlflow", mlflow_view(folder, browser))


def qsweep(folder: Path, *words: str, stdout: int | None) -> str:
    """Runs a command in a folder; its result, where `stdout` is a pipe."""
    print("$ qsweep", *words, flush=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS)}
    done = subprocess.run([*QSWEEP, *words], cwd=folder, env=environment, stdout=stdout, text=True, check=False)
    if done.returncode:
        sys.exit(f"qsweep {words[0]}: exit code {done.returncode}")
    return done.stdout or ""


def report_head(sweep: SweepFolder) -> str:
    """The report up to its first chart or table of answers."""
    html = page_file.render(page_file.read_page(sweep, sweep.events.stat().st_mtime))
    return "<h2>".join(html.split("<h2>")[:2]).partition("<script>")[0]


def live_table(sweep: SweepFolder) -> str:
    """The live table as it stood when the last trial went on, for a terminal."""
    events = [event for event, _ in read_events(sweep.events)]
    last = max(place for place, event in enumerate(events) if isinstance(event, TrialStarted))
    now, record, steps = events[last].time, SweepRecord(), dict[str, StepRecord]()
    out = Console(file=io.StringIO(), force_terminal=True, highlight=False, width=COLUMNS, height=40)
    table = Table(out, lambda: now, status.read_status(sweep, now).planned_trials)
    for event in events[: last + 1]:
        record = record.apply(event)
        if isinstance(event, DataPrepared):
            now = event.time
            table(event, record)
    now = events[last].time
    for event in events:
        if isinstance(event, TrialReported):
            taken = [step for step in event.history if step.time <= now]
            steps |= {event.trial_key: taken[-1]} if taken else {}
    table(events[last], record)
    table.latest(steps)
    with out.capture() as shown:
        out.print(table._draw())
    return shown.get()


def terminal(command: str, output: str) -> str:
    """A page that shows a command and what it prints, lines wrapped at words."""
    out = Console(file=io.StringIO(), record=True, force_terminal=True, width=COLUMNS)
    out.print(f"$ {command}\n", markup=False, highlight=False)
    out.print(Text.from_ansi(output))
    return out.export_html(inline_styles=True, code_format=_TERMINAL)


def mlflow_view(folder: Path, browser: browsers.Browser) -> bytes:
    """MLflow's page of the sweep's trials, the assistant closed."""
    words = [*QSWEEP, "ui", "results/quickstart"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            link = next(filter(lambda line: line.startswith("http"), server.stderr), None)
            if link is None:
                sys.exit("qsweep ui printed no link")
            shown = "document.body.innerText"
            browser.open(link.strip(), f"{shown}.includes('t01') && {shown}.includes('t05')")
            close = "document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')?.click()"
            browser.run(f"{close}, new Promise(drawn => setTimeout(drawn, 2000))")
            return browser.picture(540)
        finally:
            server.terminate()


def save(name: str, png: bytes) -> None:
    """Writes a picture with few colours."""
    path = PICTURES / f"{name}.png"
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} KB", flush=True)
    if size > MOST_BYTES:
        sys.exit(f"{path}: {size} bytes are more than {MOST_BYTES}")


if __name__ == "__main__":
    main(sys.argv[1:])
