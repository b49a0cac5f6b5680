"""The routes of an instance's API. Each translates a request into one operation of the coordinator and its result into JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import mnemo_coord
from mnemo_coord import doctor, errors
from mnemo_coord.api import answers, metrics, openapi, requests
from mnemo_coord.api.gate import Gate, Refusal, Throttle
from mnemo_coord.api.pulse import Pulse
from mnemo_coord.api.sessions import CODE_LIFETIME, Sessions
from mnemo_coord.api.stream import Stream
from mnemo_coord.holdings.ports import NONCE_HEADER, PROOF_HEADER, proof
from mnemo_coord.members.instance import api_url
from mnemo_coord.messages.fates import Fate
from mnemo_coord.overview import held_claims

if TYPE_CHECKING:
    from mnemo_coord.coordinator import Coordinator

__all__ = ["build"]

_NONCE_LIMIT = 64
Endpoint = Callable[[Request], Awaitable[Response]]


def build(coordinator: Coordinator, pulse: Pulse, executor: Executor) -> Any:
    """The application that answers for one instance, behind its gate. An ASGI application."""
    registration = coordinator.registration
    sessions = Sessions(registration.api_port or 0, coordinator.token or "", coordinator.fleet.signer)
    rooms = _Rooms(coordinator, pulse, executor, sessions)
    routes = [
        Route("/health", rooms.health, methods=["GET"]),
        Route("/", rooms.dashboard, methods=["GET"]),
        Route("/instances", rooms.of(rooms.instances), methods=["GET"]),
        Route("/instances/{who}", rooms.of(rooms.instance), methods=["GET"]),
        Route("/messages", rooms.told(rooms.send), methods=["POST"]),
        Route("/mailboxes", rooms.of(rooms.mailboxes), methods=["GET"]),
        Route("/claims", rooms.of(rooms.claims), methods=["GET"]),
        Route("/branches", rooms.of(rooms.branches), methods=["GET"]),
        Route("/worktrees", rooms.of(rooms.worktrees), methods=["GET"]),
        Route("/memories", rooms.memories, methods=["GET", "POST"]),
        Route("/doctor", rooms.of(rooms.doctor), methods=["GET"]),
        Route("/overview", rooms.overview, methods=["GET"]),
        Route("/metrics", rooms.metrics, methods=["GET"]),
        Route("/events", Stream(pulse), methods=["GET"]),
        Route("/events/emit", rooms.told(rooms.emit), methods=["POST"]),
        Route("/session", rooms.session, methods=["POST"]),
        Route("/session/codes", rooms.new_code, methods=["POST"]),
        Route("/openapi.json", rooms.openapi, methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_served, errors.CoordinationError: _failed})
    app.router.redirect_slashes = False  # a path is what it says
    return Gate(app, sessions, registration.api_host or "127.0.0.1", registration.api_port or 0)


async def _not_served(_request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # that is what it is registered for
    status = HTTPStatus(error.status_code)
    return answers.refused(status, "request", status.phrase.lower(), headers=dict(error.headers or {}))


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.CoordinationError)  # noqa: S101  # likewise
    return answers.failed(error)


def _refusal(refusal: Refusal) -> Response:
    return answers.refused(refusal.status, refusal.code, refusal.message, refusal.hint)


class _Rooms:
    """The operations. Those that touch files run in a worker thread, so that a slow disk does not stop the streams."""

    def __init__(self, coordinator: Coordinator, pulse: Pulse, executor: Executor, sessions: Sessions) -> None:
        self._me = coordinator
        self._pulse = pulse
        self._executor = executor
        self._sessions = sessions
        self._throttle = Throttle()

    def of(self, look: Callable[[dict[str, Any]], Any]) -> Endpoint:
        """An endpoint that answers with what ``look`` returns for the parameters in the path."""

        async def endpoint(request: Request) -> Response:
            return answers.json(await self._in_thread(look, request.path_params))

        return endpoint

    def told(self, act: Callable[[dict[str, Any]], Any], limit: int = requests.BODY_LIMIT) -> Endpoint:
        """An endpoint that answers with what ``act`` returns for the object in the body, of at most so many bytes."""

        async def endpoint(request: Request) -> Response:
            body = await requests.read(request, limit)
            return _refusal(body) if isinstance(body, Refusal) else answers.json(await self._in_thread(act, body))

        return endpoint

    async def _in_thread(self, work: Callable[[dict[str, Any]], Any], argument: dict[str, Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, argument)

    # Open to everybody

    async def health(self, request: Request) -> Response:
        """Who answers here. To a nonce it returns a proof that it is really this instance."""
        me, registration = self._me, self._me.registration
        body = {
            "status": "ok" if me.healthy else "unhealthy",
            "version": mnemo_coord.__version__,
            "instance_id": registration.instance_id,
            "subscribers": self._pulse.streams,
        }
        headers = {}
        nonce = request.headers.get(NONCE_HEADER, "")
        if 0 < len(nonce) <= _NONCE_LIMIT:
            pid, port = registration.process.pid, registration.api_port or 0
            headers[PROOF_HEADER] = proof(me.fleet.signer, nonce, registration.instance_id, pid, port)
        return answers.json(body, headers=headers)

    async def session(self, request: Request) -> Response:
        """Lets a browser in that shows a code or the token."""
        body = await requests.read(request)
        if isinstance(body, Refusal):
            return _refusal(body)
        shown = requests.Introduction.from_body(body)
        good = self._sessions.use_code(shown.code) if shown.code is not None else self._shows_token(shown.token or "")
        if good:
            return answers.json({"instance_id": self._me.instance_id}, headers={"Set-Cookie": self._sessions.new_cookie()})
        if self._throttle.exceeded():
            return answers.refused(HTTPStatus.TOO_MANY_REQUESTS, "throttled", "too many wrong codes", "wait a second")
        return answers.refused(HTTPStatus.UNAUTHORIZED, "token", "this code has been used, is too old, or never was one")

    def _shows_token(self, token: str) -> bool:
        return self._sessions.is_token(token.strip().encode(errors="replace"))

    # What there is

    async def dashboard(self, _request: Request) -> Response:
        """The web dashboard."""
        return answers.dashboard()

    async def openapi(self, _request: Request) -> Response:
        """The description of all this."""
        return answers.json(openapi.document())

    async def overview(self, _request: Request) -> Response:
        """Everything at once, as the dashboards see it."""
        overview, _ = await self._pulse.look()
        return answers.json(overview)

    async def memories(self, request: Request) -> Response:
        """What is known, as `mnemosyne recall --json` shows it; posted to, it stores a memory."""
        if request.method == "POST":
            return await self.told(self.remember, requests.MEMORY_LIMIT)(request)
        return answers.json(await self._in_thread(self._recall, requests.recall_options(request.query_params.multi_items())))

    def _recall(self, options: dict[str, Any]) -> Any:
        return self._me.memory.recall(**options)

    async def metrics(self, _request: Request) -> Response:
        """The same in numbers, for Prometheus."""
        overview, _ = await self._pulse.look()
        text = metrics.text(overview, self._pulse.streams)
        return Response(text, headers={**answers.CAREFUL, "Content-Type": metrics.CONTENT_TYPE})

    async def new_code(self, _request: Request) -> Response:
        """A code with which a browser gets in, once."""
        code = self._sessions.new_code()
        registration = self._me.registration
        url = f"{api_url(registration.api_host or '', registration.api_port or 0)}/#code={code}"
        return answers.json({"code": code, "url": url, "expires_in": CODE_LIFETIME})

    def instances(self, _: dict[str, Any]) -> Any:
        """Everybody, as `mnemosyne list --json` shows them."""
        return self._me.instances()

    def instance(self, path: dict[str, Any]) -> Any:
        """One instance, by its id or name."""
        for instance in self._me.instances():
            if path["who"] in {instance.instance_id, instance.name}:
                return instance
        raise errors.NotFound("no instance has this id or name", hint="GET /instances lists them")

    def mailboxes(self, _: dict[str, Any]) -> Any:
        """Every mailbox, as `mnemosyne queue --json` shows them."""
        fates = self._me.fleet.fates
        aside = fates.aside()
        counts = {"dead_lettered": aside[Fate.DEAD_LETTERED], "refused": aside[Fate.REFUSED]}
        return {"mailboxes": fates.depths(), **counts}

    def claims(self, _: dict[str, Any]) -> Any:
        """Who holds what."""
        return held_claims(self._me.fleet.claims)

    def branches(self, _: dict[str, Any]) -> Any:
        """Who works on which branch, as `mnemosyne branch status --json` shows it."""
        return self._me.fleet.branches.states()

    def worktrees(self, _: dict[str, Any]) -> Any:
        """The git worktrees of instances, as `mnemosyne worktree list --json` shows them."""
        return self._me.fleet.worktrees.all()

    def doctor(self, _: dict[str, Any]) -> Any:
        """What `mnemosyne doctor --json` finds. Changes nothing."""
        report = doctor.examine(self._me.fleet.state.path, settings=self._me.fleet.settings)
        return {"status": report.status, "findings": report.findings}

    # What is done

    def send(self, body: dict[str, Any]) -> Any:
        """Sends a message, as this instance or under another name."""
        out = requests.Outgoing.from_body(body)
        if out.sender is None and out.to is None:
            return self._me.broadcast(out.type, out.payload, **out.options)
        if out.sender is None:
            return self._me.send(out.to or "", out.type, out.payload, **out.options)
        if out.to is None:
            return self._me.fleet.broadcast(out.type, out.payload, sender=out.sender, **out.options)
        receipt = self._me.fleet.send(out.to, out.type, out.payload, sender=out.sender, **out.options)
        if receipt.failed:
            raise errors.UnknownAddress(f"{out.to}: {receipt.failed[0].reason}", address=out.to)
        return receipt

    def remember(self, body: dict[str, Any]) -> Any:
        """Stores a memory, as this instance."""
        return self._me.memory.store(**requests.memory_options(body))

    def emit(self, body: dict[str, Any]) -> Any:
        """Says what an agent is doing."""
        said = requests.Emission.from_body(body)
        if said.who in {None, self._me.instance_id, self._me.name}:
            return self._me.report(said.state, said.text)
        return self._me.fleet.report(said.who or "", said.state, said.text)
