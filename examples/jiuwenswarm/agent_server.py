"""The agent server: answers what it is asked, and says which instance it belongs to."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from service import Handler, serve, who


class Agent(Handler):
    """``GET /health`` and ``GET /ask?text=…``."""

    def do_GET(self) -> None:  # noqa: N802  # the name is the library's
        """Answers."""
        url = urlsplit(self.path)
        if url.path == "/health":
            self.answer({"status": "ok"} | who())
        elif url.path == "/ask":
            text = parse_qs(url.query).get("text", [""])[0]
            self.answer({"answer": text[::-1]} | who())
        else:
            self.answer({"error": "not found"}, status=404)


serve(Agent)
