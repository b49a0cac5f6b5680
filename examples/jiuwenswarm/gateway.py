"""The gateway: passes what it is asked on to the agent server of its own instance."""

from __future__ import annotations

import json
import os
import urllib.request

from service import Handler, serve

AGENT = f"http://127.0.0.1:{os.environ['AGENT_SERVER_PORT']}"


class Gateway(Handler):
    """``GET /…`` is the agent server's."""

    def do_GET(self) -> None:  # noqa: N802  # the name is the library's
        """Answers what the agent server does."""
        try:
            with urllib.request.urlopen(AGENT + self.path, timeout=5) as answer:
                self.answer({"through": "gateway"} | json.load(answer))
        except OSError as error:
            self.answer({"error": str(error)}, status=502)


serve(Gateway)
