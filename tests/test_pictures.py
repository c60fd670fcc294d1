"""The pictures on the pages are there and light, and what they are made of is what people see."""

from __future__ import annotations

import re
from pathlib import Path

import browsers
import pictures
import pytest
import report_sweeps as sweeps
from PIL import Image

from sweeps.record.events import DataPrepared

PAGES = [pictures.ROOT / "README.md", *sorted((pictures.ROOT / "docs").glob("*.md"))]
SHOWN = [page.parent / name for page in PAGES for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())]


def test_each_picture_is_shown_on_a_page() -> None:
    assert len(SHOWN) >= 4
    assert sorted(SHOWN) == sorted(pictures.PICTURES.iterdir())


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_a_picture_is_light_and_as_wide_as_a_screen(path: Path) -> None:
    assert path.stat().st_size <= pictures.MOST_BYTES
    with Image.open(path) as found:
        found.verify()
        assert found.width == pictures.WIDTH


def test_the_live_table_is_that_of_the_last_trial_that_went_on(tmp_path: Path) -> None:
    events = [
        event.model_copy(update={"summary": {"train_rows": 0}}) if isinstance(event, DataPrepared) else event
        for event in sweeps.events(3, sweeps.config())
    ]
    shown = pictures.live_table(sweeps.write(tmp_path, events))
    assert re.search(r"t02 .* RUNNING", shown) and "3/8 trials · 1 running 1 stopped 1 completed" in shown


def test_a_command_and_its_output_are_told_as_text() -> None:
    page = pictures.terminal("qsweep plan x", "plan: <b> " + "word " * 40)
    assert "$ qsweep plan x" in page and "plan: &lt;b&gt; word" in page
    assert max(map(len, re.sub(r"<[^>]*>", "", page.partition("<pre>")[2]).splitlines())) <= pictures.COLUMNS + 6


def test_the_head_of_a_report_has_the_table_and_no_chart(tmp_path: Path) -> None:
    head = pictures.report_head(sweeps.write(tmp_path, sweeps.events(3, sweeps.config())))
    assert 'id="trials"' in head and "best: t00" in head
    assert "plotly" not in head.partition("</style>")[2]


@pytest.mark.skipif(browsers.PROGRAM is None, reason="no chromium on this machine")
def test_a_browser_waits_for_what_a_page_shows_and_makes_a_picture(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    later = "setTimeout(() => document.body.append('there'), 300)"
    page.write_text(f"<!doctype html><body style='background: red'><script>{later}</script>")
    with browsers.browser(320) as browser:
        browser.open(page.as_uri(), "document.body.innerText.includes('there')")
        (tmp_path / "found.png").write_bytes(browser.picture(50))
    with Image.open(tmp_path / "found.png") as found:
        assert found.size == (320, 50)
        assert found.convert("RGB").getpixel((300, 40)) == (255, 0, 0)
