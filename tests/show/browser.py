"""A picture's page in a real browser, by real clicks and keys: see browser.sh.

Speaks the WebDriver protocol with chromedriver itself; nothing but the standard library is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import numpy as np  # noqa: E402

import minigrad as mg  # noqa: E402
import minigrad_rnn as rnn  # noqa: E402

PORT = 9517
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
]


class Browser:
    """One chromium, driven by chromedriver."""

    def __init__(self, folder: str) -> None:
        command = ["chromedriver", f"--port={PORT}", "--silent"]
        self.driver = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.session = ""
        options = {
            "goog:chromeOptions": {
                "args": [*ARGUMENTS, f"--user-data-dir={folder}"],
                "binary": os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        for _ in range(100):
            try:
                self.call("GET", "/status")
                break
            except OSError:
                time.sleep(0.1)
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        self.session = f"/session/{made['sessionId']}"

    def call(self, method: str, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}{path}",
            data,
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def do(self, path: str, body: object = None, method: str = "POST") -> object:
        return self.call(method, self.session + path, {} if body is None else body)

    def js(self, script: str) -> object:
        return self.do("/execute/sync", {"script": f"return {script}", "args": []})

    def element(self, selector: str) -> dict[str, str]:
        return self.do("/element", {"using": "css selector", "value": selector})

    def click(self, selector: str) -> None:
        self.do(f"/element/{self.element(selector)[ELEMENT]}/click")

    def keys(self, text: str) -> None:
        actions = [{"type": kind, "value": c} for c in text for kind in ("keyDown", "keyUp")]
        self.do("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def pointer(self, *actions: dict[str, object]) -> None:
        one = {"type": "pointer", "id": "mouse", "actions": list(actions)}
        self.do("/actions", {"actions": [one]})

    def over(self, selector: str) -> None:
        """Move the mouse to the middle of an element, from the corner of the view."""
        place = self.js(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for x, y in ((3, 500), place):
            self.pointer({"type": "pointerMove", "x": round(x), "y": round(y), "duration": 20})

    def wheel(self, by: int) -> None:
        action = {"type": "scroll", "x": 600, "y": 400, "deltaX": 0, "deltaY": by}
        self.do("/actions", {"actions": [{"type": "wheel", "id": "wheel", "actions": [action]}]})

    def log(self, kind: str) -> list[dict[str, object]]:
        return self.do("/se/log", {"type": kind})

    def info(self) -> str:
        return self.js("document.querySelector('#info').textContent")

    def box(self) -> list[float]:
        return self.js(
            "document.querySelector('#view > svg').getAttribute('viewBox').split(' ').map(Number)"
        )

    def close(self) -> None:
        try:
            self.do("", method="DELETE")
        finally:
            self.driver.terminate()


FAILED = []


def check(what: str, right: bool, detail: object = "") -> None:
    print(f"{'PASS' if right else 'FAIL'}  {what}{f': {detail}' if detail != '' else ''}")
    if not right:
        FAILED.append(what)


def program():
    """Two layers of LSTM, a folded loop in each."""
    cells = [rnn.LSTMCell(3, 4, dtype="float64"), rnn.LSTMCell(4, 4, dtype="float64")]
    net = rnn.Layers(cells)

    def loss(xs):
        ys, _ = net(xs)
        return (ys**2).mean()

    return loss


OVERLAPS = """(() => {
  const boxes = [...document.querySelectorAll('#view g[id^=b]')];
  const seen = boxes.map(g => g.querySelector('rect').getBoundingClientRect()).filter(r => r.width);
  const apart = (a, b) => a.left > b.right - 0.5 || a.top > b.bottom - 0.5;
  const meet = (a, b) => !apart(a, b) && !apart(b, a);
  return seen.filter((a, i) => seen.slice(i + 1).some(b => meet(a, b))).length; })()"""
HIDDEN = """[...document.querySelectorAll('#view g[id^=b] > rect')]
  .filter(rect => !rect.getBoundingClientRect().width).length"""
INJECTED = """(() => {
  const script = document.createElement('script');
  script.textContent = 'window.ran = 1';
  document.body.append(script);
  return window.ran === undefined; })()"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "loss.html"
        mg.draw(program(), mg.Tensor(np.ones((20, 2, 3)))).save(page)
        browser = Browser(f"{folder}/profile")
        try:
            use(browser, page)
            large(browser, Path(folder) / "large.html")
        finally:
            browser.close()
    print(f"{'FAIL' if FAILED else 'PASS'}  {len(FAILED)} of the checks failed")
    return 1 if FAILED else 0


def use(browser: Browser, page: Path) -> None:
    browser.do("/url", {"url": page.as_uri()})
    print(f"page of {page.stat().st_size / 1024:.0f} KiB")
    whole = browser.box()
    browser.click("#in")
    check("the zoom button makes the view narrower", browser.box()[2] < whole[2])
    browser.wheel(-240)
    check("so does the wheel", browser.box()[2] < whole[2] / 1.4, browser.box())
    browser.wheel(600)
    browser.click("#all")
    check("and the whole picture comes back", browser.box() == whole)

    move = {"type": "pointerMove", "duration": 50}
    browser.pointer(
        {**move, "x": 300, "y": 400},
        {"type": "pointerDown", "button": 0},
        {**move, "x": 350, "y": 430},
        {**move, "x": 400, "y": 460},
        {"type": "pointerUp", "button": 0},
    )
    moved = browser.box()
    check("dragging moves the picture", moved[0] < whole[0] and moved[1] < whole[1], moved)
    browser.keys("\ue014")  # the right arrow
    check("the arrow key moves it", browser.box()[0] > moved[0])
    browser.keys("0")
    check("the key 0 shows the whole picture", browser.box() == whole)
    browser.keys("+")
    check("the key + zooms", browser.box()[2] < whole[2])
    browser.keys("0")

    frames = "document.querySelectorAll('#view g[id^=g]').length"
    hidden = HIDDEN
    check("there are frames of modules and loops", browser.js(frames) >= 5, browser.js(frames))
    check("no box lies over another", browser.js(OVERLAPS) == 0)
    first = "#g1 > text.head"
    height = "document.querySelector('#view > svg > g').getBBox().height"
    tall = browser.js(height)
    browser.click(first)
    check("a click on a frame's title closes it", browser.js(hidden) > 10, browser.js(hidden))
    check("and the picture gets shorter", browser.js(height) < tall - 200, browser.js(height))
    check("what is left does not overlap", browser.js(OVERLAPS) == 0)
    browser.click(first)
    check("another click opens it again", browser.js(hidden) == 0)
    check("and all is where it was", abs(browser.js(height) - tall) < 0.5)
    browser.click("#close")
    check("all frames close", browser.js(hidden) > 20, browser.js(hidden))
    browser.click("#open")
    check("all frames open", browser.js(hidden) == 0 and browser.js(OVERLAPS) == 0)
    browser.js(f"document.querySelector('{first}').focus() ?? true")
    browser.keys("\ue007")  # Enter
    check("Enter on a focused title closes the frame", browser.js(hidden) > 10)
    browser.keys("\ue007")

    tanh = (
        "[...document.querySelectorAll('#view g[id^=b]')].find(g => /tanh/.test(g.textContent)).id"
    )
    browser.over(f"#{browser.js(tanh)} rect")
    said = browser.info()
    check("pointing at an op tells shape, values and gradient",
          "tanh" in said and "(2, 4)" in said and "values" in said and "gradient norm" in said,
          said)  # fmt: skip
    browser.over("#view path[opacity='0'][d]")
    check(
        "pointing at a line tells of its value",
        browser.info().startswith("value of"),
        browser.info(),
    )

    browser.click("#next")
    one, lit = browser.info(), "document.querySelectorAll('g.lit').length"
    check("the first step of backward", "step 1 of" in one and "arrives" in one, one)
    check("lights up a box", browser.js(lit) == 1)
    browser.keys("n")
    two = browser.info()
    check("the key n goes on", "step 2 of" in two and "sends" in two, two)
    browser.keys("p")
    check("the key p goes back", browser.info() == one)
    for _ in range(5):
        browser.keys("n")
    check("five steps on, one box is lit", browser.js(lit) == 1, browser.info())

    logged = [entry["message"] for entry in browser.log("browser")]
    check("the console is empty", not logged, logged or "")
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    other = [
        url for url in asked if url != page.as_uri() and not url.startswith(("chrome", "data:"))
    ]
    check("nothing is asked for but the page itself", len(asked) >= 1 and not other, other or "")
    check("a script that something adds does not run", browser.js(INJECTED))


def large(browser: Browser, page: Path) -> None:
    y = x = mg.Tensor(0.5, requires_grad=True)
    for _ in range(199):
        y = mg.tanh(y * x)
    picture = mg.draw(y * x)
    picture.save(page)
    count = len(picture.boxes)
    browser.do("/url", {"url": page.as_uri()})
    ready = browser.js("performance.getEntriesByType('navigation')[0].domComplete")
    print(f"{count} nodes: {page.stat().st_size / 1024:.0f} KiB, complete after {ready:.0f} ms")
    check("a page of 400 nodes is below 1 MiB", count == 400 and page.stat().st_size < 2**20)
    check("and is there within 10 s", ready < 10000)
    browser.keys("n")
    check("and steps", "step 1 of 400" in browser.info(), browser.info())


if __name__ == "__main__":
    raise SystemExit(main())
