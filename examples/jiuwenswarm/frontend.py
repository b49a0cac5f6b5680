"""The frontend: one page that shows which instance it is part of and listens to the channel."""

from __future__ import annotations

import html
import os

from service import Handler, serve, who

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{instance}</title>
<h1>{instance}</h1>
<p>Model: {model}. Gateway: <a href="http://127.0.0.1:{gateway}/health">{gateway}</a>,
channel: <a href="http://127.0.0.1:{web}/events">{web}</a>.</p>
"""


class Frontend(Handler):
    """``GET /``."""

    def do_GET(self) -> None:  # noqa: N802  # the name is the library's
        """Sends the page."""
        values = {name: html.escape(str(value)) for name, value in who().items()}
        ports = {"gateway": os.environ["GATEWAY_PORT"], "web": os.environ["WEB_PORT"]}
        self.answer(PAGE.format(**values, **ports), "text/html; charset=utf-8")


serve(Frontend)
