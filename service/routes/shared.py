"""What routes share: the engine, how long it may take, JSON in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.types import Receive

from service.engine import Engine
from service.errors import WHEN_GONE, ClientGone, Problem

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


async def engine(request: Request) -> Engine:
    """The app's engine; a coroutine, for FastAPI would run a function on another thread."""
    return request.app.state.engine  # type: ignore[no-any-return]


_LARGE = 64 * 2**10  # bytes; a body with more is nearly always one of pictures

# Of a body; 64 vectors of 1,536 numbers are half as many. What reads one lets nothing else run: 60 ms for as many.
_MOST_VALUES = 200_000
_MOST_ERRORS = 1000
_UNWATCHED = 0.05  # seconds; where the server does not tell, a task looks out for the client's leaving: 30 µs

EngineOf = Annotated[Engine, Depends(engine)]


async def in_time(work: Awaitable[T], request: Request) -> T:
    """Await `work`; let go of it once the client has gone. How long it may take is the guard's to say.

    What comes next from the client is its leaving, or a body that nobody reads.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    def leave(_: object = None) -> None:
        nonlocal left
        left = True
        task.cancel()

    soon: asyncio.TimerHandle | None = None
    watch: asyncio.Task[None] | None = None

    def look() -> None:
        nonlocal watch
        watch = asyncio.ensure_future(_disconnected(request))
        watch.add_done_callback(leave)

    told: list[Callable[[], object]] | None = request.scope.get(WHEN_GONE)
    if told is not None:
        told.append(leave)
    else:
        soon = asyncio.get_running_loop().call_later(_UNWATCHED, look)
    try:
        return await work
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise (watch and watch.exception()) or ClientGone from None
    finally:
        if told is not None:
            told.clear()
        if soon is not None:
            soon.cancel()
        if watch is not None:
            watch.remove_done_callback(leave)
            watch.cancel()


async def _read(receive: Receive) -> bytes:
    """A whole body. Request.body makes a generator and keeps what it has read, for a tenth of the loop's time."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a JSON body that `json_of` reads; `app` adds the schemas of such models."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json_response(answer: bytes) -> Response:
    return Response(answer, media_type="application/json")


def expect_picture(request: Request, engine: Engine) -> None:
    """Call before a body is read that may hold a picture: what there is no time for is refused unread."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > _LARGE:
        engine.queries.check_pictures()


async def json_of(request: Request, model: type[Model], engine: Engine) -> Model:
    """The body as `model`, read and checked in one pass. Raises Problem 400 for what is not JSON, ValidationError."""
    expect_picture(request, engine)
    body = await _read(request.receive)
    if not body:
        raise Problem(400, "the body is empty: send JSON, or multipart/form-data with a field `image`")
    if len(body) > _MOST_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise Problem(422, f"the body has more than {_MOST_VALUES:,} values (commas and brackets, in texts too)")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > _MOST_ERRORS:  # listing them all would hold up everybody
            raise Problem(422, f"the body has {error.error_count():,} errors") from None
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, f"the body is not JSON: {first['ctx']['error']}") from None
        raise
