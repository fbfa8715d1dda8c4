"""The report as a browser shows it: nothing overlaps, nothing is asked for, dark and light, wide and on a phone."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compared import results
from fgunlearn.report.comparison import write_report

pytest.importorskip("jinja2")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the path to show the page")

# Violations are those of the page's own policy: what it would have fetched. In the page's head, before all else.
LISTEN = """<script>
var asked = [];
document.addEventListener("securitypolicyviolation", function (e) { asked.push(e.blockedURI); });
</script>"""

CHECK = """<script>
addEventListener("load", function () { setTimeout(function () {
  function seen(e) { var r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; }
  function all(root, what) { return Array.prototype.filter.call(root.querySelectorAll(what), seen); }
  function pairs(elements, slack) {
    var found = [];
    for (var i = 0; i < elements.length; i++) for (var j = i + 1; j < elements.length; j++) {
      var a = elements[i].getBoundingClientRect(), b = elements[j].getBoundingClientRect();
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > slack &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > slack)
        found.push(elements[i].textContent + " | " + elements[j].textContent);
    }
    return found;
  }
  var out = { overlaps: [], outside: [], drawings: 0, texts: 0, smallest: 99 };
  all(document, "figure svg:not(.swatch)").forEach(function (svg) {
    var box = svg.getBoundingClientRect(), texts = all(svg, "text");
    out.drawings += 1; out.texts += texts.length;
    /* A line of small text is higher than its letters: 2 px of air may be shared. */
    out.overlaps = out.overlaps.concat(pairs(texts, 2));
    texts.forEach(function (t) {
      var r = t.getBoundingClientRect();
      var scale = box.width / svg.viewBox.baseVal.width;
      out.smallest = Math.min(out.smallest, parseFloat(getComputedStyle(t).fontSize) * scale);
      if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1)
        out.outside.push(t.textContent);
    });
  });
  [".legend li", ".facts > div", ".card dl > div", ".card dd > span", "figure h3, figcaption, .drawings > svg",
   "header > *, section > *"].forEach(function (what) {
    out.overlaps = out.overlaps.concat(pairs(all(document, what), 1));
  });
  all(document, "tr").forEach(function (tr) {
    var inside = all(tr, "td > span, td.failed");  /* the first column stays in sight above the others */
    out.overlaps = out.overlaps.concat(pairs(inside, 1));
  });
  out.page = document.documentElement.scrollWidth; out.window = innerWidth;
  out.resources = performance.getEntriesByType("resource").map(function (e) { return e.name; });
  out.asked = asked;
  out.background = getComputedStyle(document.body).backgroundColor;
  out.ink = getComputedStyle(document.querySelector("figure svg text")).fill;
  out.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  var button = document.getElementById("theme");
  button.click(); out.light = getComputedStyle(document.body).backgroundColor;
  button.click(); out.dark_by_hand = getComputedStyle(document.body).backgroundColor;
  parent.postMessage(JSON.stringify(out), "*");
}, 50); });
</script>"""

FRAME = """<!DOCTYPE html><body style="margin:0"><pre id="found"></pre><script>
addEventListener("message", function (e) { document.getElementById("found").textContent = e.data; });
</script><iframe src="checked.html" style="border:0;width:%dpx;height:6000px"></iframe>"""

LIGHT, DARK = "rgb(246, 247, 249)", "rgb(20, 23, 27)"


def shown(found: dict[str, Any], folder: Path, width: int, dark: bool) -> dict[str, Any]:
    """What the browser says of the report in a window of that width: in a frame, as windows can't be that small."""
    write_report(found, folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    checked = page.replace("<head>", "<head>" + LISTEN, 1).replace("</body>", CHECK + "</body>", 1)
    (folder / "checked.html").write_text(checked, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME % width)
    command = [
        *(str(BROWSER), "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"),
        *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
        *("--virtual-time-budget=20000", f"--window-size={max(width, 600)},900"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--dump-dom", (folder / "frame.html").as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = re.search(r'<pre id="found">(.+?)</pre>', ran.stdout, re.DOTALL)
    assert said is not None, ran.stderr[-2000:]
    answer: dict[str, Any] = json.loads(html.unescape(said[1]))
    return answer


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1024, True), (390, True), (360, False)])
def test_nothing_overlaps_nothing_is_cut_off_and_nothing_is_fetched(width: int, dark: bool, tmp_path: Path) -> None:
    slow = {"phases": {"train": 90.0}, "average_gap": 40.0}
    long = "topk:recipe=perturb + repair,score=fisher_ratio,scope=tensor,ratio=0.125"
    names = results()["configuration"]["entries"]
    found = results((*names, long), scenarios=("random-0.1", "class"), scrub=slow, ssd={"failed": "loss is nan"})
    seen = shown(found, tmp_path, width, dark)
    assert seen["overlaps"] == []
    assert seen["outside"] == []
    assert seen["page"] <= seen["window"] == width
    assert seen["resources"] == []
    assert seen["asked"] == []
    assert seen["drawings"] > 20
    assert seen["texts"] > 300
    assert seen["smallest"] >= 8.5  # px
    assert seen["dark"] == dark
    assert seen["background"] == (DARK if dark else LIGHT)
    assert (seen["light"], seen["dark_by_hand"]) == (LIGHT, DARK)


@pytest.mark.parametrize("width", [1440, 390])
def test_methods_that_lie_on_each_other_have_labels_that_do_not(width: int, tmp_path: Path) -> None:
    names = ("retrain", "topk", "randomk", "random_topk", "finetune", "ssd", "scrub", "salun", "l1_sparse")
    same = {"average_gap": 0.9, "acceleration": 9.5}
    found = results(names, seeds=(0,), **dict.fromkeys(names, same))
    assert shown(found, tmp_path, width, dark=False)["overlaps"] == []


def test_a_screenshot_holds_a_picture(tmp_path: Path) -> None:
    write_report(results(), tmp_path / "report.html")
    command = [
        *(str(BROWSER), "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"),
        *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
        *(f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1440,4000", (tmp_path / "report.html").as_uri()),
    ]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert (tmp_path / "shot.png").stat().st_size > 100_000
