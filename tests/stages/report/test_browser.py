"""The page in Chromium, at desktop and phone width: no error, no broken image, no sideways scrolling."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agfsync.stages import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--window-size=1400,900", "--virtual-time-budget=10000"),
]
WIDTHS = {"desktop": 1280, "phone": 390}

LISTEN = """<script>
window.faults = [];
addEventListener("error", event => faults.push(event.message || "can't load " + event.target.outerHTML), true);
addEventListener("securitypolicyviolation", event => faults.push("asked for " + event.blockedURI));
addEventListener("load", () => {
  // a wide table may scroll in a frame that fits
  const placed = [...document.querySelectorAll("body *")].filter(e => !e.parentElement.closest(".scroll"));
  const wide = placed.filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  parent.postMessage({
    name: window.name, faults, width: innerWidth, scroll: document.documentElement.scrollWidth,
    images: document.images.length, broken: [...document.images].filter(i => !i.naturalWidth).length,
    astray: [...document.querySelectorAll(".card li")].filter(line => {
      const [asked, answers] = [...line.children].map(each => each.getBoundingClientRect());
      return answers.left < asked.left;
    }).length,
    wide: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120)), hacked: window.hacked === true,
  }, "*");
});
</script>"""
"""What the copy under test tells of itself. Nothing but data: may be loaded in it, so any other request is a fault."""
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
    " style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
AROUND = """<!doctype html><body><script>
addEventListener("message", event => {
  const told = document.createElement("pre");
  told.textContent = JSON.stringify(event.data);
  document.body.append(told);
});
</script>"""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install chromium to try the report in a browser"),
    pytest.mark.slow,
]


def look(page: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What the page tells of itself at each width, in frames: a window can't be as narrow as a phone."""
    copy = page.read_text(encoding="utf-8").replace("<head>", "<head>" + POLICY + LISTEN, 1)
    (folder / "copy.html").write_text(copy, encoding="utf-8")
    frames = (
        f'<iframe name="{n}" src="copy.html" style="width:{w}px;height:900px"></iframe>' for n, w in WIDTHS.items()
    )
    (folder / "around.html").write_text(AROUND + "".join(frames), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    shown = subprocess.run(
        [*command, (folder / "around.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    told = [json.loads(html.unescape(text)) for text in re.findall(r"<pre>(.*?)</pre>", shown.stdout, re.DOTALL)]
    return {each["name"]: each for each in told}


@pytest.mark.parametrize(
    "world",
    [
        pytest.param({}, id="whole"),
        pytest.param({"skill": {"base": 0.6, "aligned": 0.6}, "flattery": 0.6, "clip_drift": -1.0}, id="alarm"),
        pytest.param({"text": "<script>window.hacked = true</script><img src=x onerror='hacked = true'>"}, id="evil"),
        pytest.param({"text": "W" * 300}, id="long-word"),
        pytest.param({"text": "\u202e\u2066\u2069\x00\x1b[2J <b>قطة</b> חתול"}, id="right-to-left"),
        pytest.param({"stages": ("captions", "questions")}, id="begun"),
        pytest.param({"side": 512, "train": 6, "held_out": 8}, id="large-images"),
    ],
)
def test_the_page_shows_well(made_up: Any, tmp_path: Path, world: dict[str, Any]) -> None:
    context = made_up(**world)
    report.run(context)
    found = look(context.run.path / "report.html", tmp_path)
    assert set(found) == set(WIDTHS)
    for name, width in WIDTHS.items():
        seen = found[name]
        assert seen["width"] == width
        assert seen["faults"] == []
        assert seen["broken"] == 0
        assert seen["images"] > 0 or "stages" in world
        assert seen["scroll"] <= width
        assert seen["wide"] == []
        assert not seen["hacked"]
        assert seen["astray"] == 0  # no answer has gone to the left of its question
