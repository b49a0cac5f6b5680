"""The routes. So far there is one: ``GET /health``, which needs no token and tells nothing that a stranger could use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import mnemo_coord
from mnemo_coord.holdings.ports import NONCE_HEADER, PROOF_HEADER, proof

if TYPE_CHECKING:
    from starlette.requests import Request

    from mnemo_coord.coordinator import Coordinator

__all__ = ["build"]

_NONCE_LIMIT = 64


def build(coordinator: Coordinator) -> Starlette:
    """The application that answers for one instance."""

    async def health(request: Request) -> JSONResponse:
        """Who answers here. To a nonce it returns a proof that it is really this instance."""
        registration = coordinator.registration
        body = {
            "status": "ok" if coordinator.healthy else "unhealthy",
            "version": mnemo_coord.__version__,
            "instance_id": registration.instance_id,
            "subscribers": 0,
        }
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        nonce = request.headers.get(NONCE_HEADER, "")
        if 0 < len(nonce) <= _NONCE_LIMIT:
            signer, port = coordinator.fleet.signer, registration.api_port or 0
            headers[PROOF_HEADER] = proof(signer, nonce, registration.instance_id, registration.process.pid, port)
        return JSONResponse(body, headers=headers)

    app = Starlette(routes=[Route("/health", health, methods=["GET"])])
    app.router.redirect_slashes = False  # a path is what it says
    return app
