"""The channel: a stream of server-sent events, one for each answer of the agent server."""

from __future__ import annotations

import os
import time
import urllib.request

from service import Handler, serve

AGENT = f"http://127.0.0.1:{os.environ['AGENT_SERVER_PORT']}"


class Channel(Handler):
    """``GET /events``, and ``GET /health``."""

    def do_GET(self) -> None:  # noqa: N802  # the name is the library's
        """Streams until the reader goes away."""
        if self.path != "/events":
            self.answer({"status": "ok"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while True:
            with urllib.request.urlopen(f"{AGENT}/health", timeout=5) as answer:
                self.wfile.write(b"event: health\ndata: " + answer.read() + b"\n\n")
                self.wfile.flush()
            time.sleep(1)


serve(Channel)
