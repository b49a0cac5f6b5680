"""Takes the picture of the dashboard that the README shows: a small fleet, really running, seen in Debian's Chromium.

    python docs/screenshot.py [FILE]       docs/images/dashboard.png by default

It needs the extra ``test`` and the package ``chromium``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from mnemo_coord import Coordinator, Settings

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
FAST = Settings(heartbeat_interval=0.5, poll_interval=0.5)


def main() -> None:
    wanted = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images" / "dashboard.png"
    with tempfile.TemporaryDirectory(prefix="mnemo-") as place, ExitStack() as stack:
        state_dir = Path(place) / "shop" / ".mnemosyne"
        state_dir.parent.mkdir()
        subprocess.run(["git", "init", "-q", "-b", "main", str(state_dir.parent)], check=True)
        mnemosyne = [str(Path(sys.executable).parent / "mnemosyne"), "--dir", str(state_dir)]
        argv = [*mnemosyne, "serve", "--with-api", "--name", "planner", "--role", "planning", "--heartbeat-interval", "0.5"]
        server = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.send_signal, signal.SIGTERM)
        url = _address(mnemosyne)
        crew = {
            name: stack.enter_context(Coordinator(state_dir, name=name, roles=roles, settings=FAST))
            for name, roles in (
                ("backend", ["coder"]),
                ("frontend", ["coder"]),
                ("tests", ["tester"]),
                ("docs", []),
                ("reviewer", ["reviewer"]),
            )
        }
        _be_busy(crew, mnemosyne)
        stack.enter_context(crew["reviewer"].claim("release"))
        _share_branches(crew)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = chromium.new_page(viewport={"width": 1200, "height": 1630}, device_scale_factor=1)
            page.goto(url)
            expect(page.locator("#connection")).to_contain_text("live")
            for _ in range(3):
                _talk(crew)
                time.sleep(1)
            page.screenshot(path=wanted)
            chromium.close()
    print(f"{wanted}: {wanted.stat().st_size:,} bytes")


def _address(mnemosyne: list[str]) -> str:
    for _ in range(100):
        done = subprocess.run([*mnemosyne, "dashboard"], capture_output=True, text=True, check=False, env=dict(os.environ))
        if done.returncode == 0:
            return done.stdout.strip()
        time.sleep(0.1)
    raise SystemExit(done.stderr)


def _be_busy(crew: dict[str, Coordinator], mnemosyne: list[str]) -> None:
    for name in ("backend", "frontend", "docs", "reviewer"):
        crew[name].on_message(lambda _message: None)
    crew["backend"].report("working", "the orders endpoint, 3 of 5 tests pass")
    crew["frontend"].report("waiting", "which of the two designs for the cart?")
    crew["tests"].report("stuck", "the test database asks for a password")
    crew["docs"].report("idle")
    for _ in range(12):
        crew["backend"].send("reviewer", "ReviewRequest", {"branch": "orders"})
    for _ in range(4):
        crew["reviewer"].send("backend", "ReviewDone", {"comments": 2})
    subprocess.run([*mnemosyne, "send", "--to", "docs", "Changed", "--from", "ci"], stdout=subprocess.DEVNULL, check=True)
    for _ in range(3):
        crew["reviewer"].send("tests", "RunTests", {"branch": "orders"})


def _share_branches(crew: dict[str, Coordinator]) -> None:
    crew["backend"].branches.join("orders", files=["shop/api/orders.py", "shop/models/**"], mode="coordinated")
    crew["frontend"].branches.join("orders", files=["shop/api/cart.py", "web/**"], mode="coordinated")
    crew["reviewer"].branches.join("orders", "read")
    crew["docs"].branches.join("manual")


def _talk(crew: dict[str, Coordinator]) -> None:
    crew["frontend"].send("planner", "Question", {"about": "cart"})
    crew["backend"].send("planner", "Progress", {"done": 3})
    crew["reviewer"].send("frontend", "ReviewDone", {"comments": 0})


if __name__ == "__main__":
    main()
