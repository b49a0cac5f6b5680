"""What the four services have in common: an HTTP server on the port that the environment says."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers with JSON or text."""

    protocol_version = "HTTP/1.1"

    def answer(self, what: Any, kind: str = "application/json", status: int = 200) -> None:
        """Sends one whole answer."""
        body = what.encode() if isinstance(what, str) else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def who() -> dict[str, Any]:
    """Which instance this is: its name, or the id of the default one in the fleet."""
    return {"instance": os.environ["MNEMOSYNE_INSTANCE"], "model": os.environ.get("MODEL_NAME", "none")}


def serve(handler: type[Handler]) -> None:
    """Serves until it is asked to end."""
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), handler)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()
