"""Errors as application/problem+json (RFC 9457): each says what to change, none shows a traceback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service import logs
from service.errors import Problem
from service.refusals import count
from vector_index import BeyondStore, StoreRefused, StoreUnavailable

MEDIA_TYPE = "application/problem+json"
_LONGEST = 2000  # characters of a detail, which may quote what was sent
log = logs.logger("crossmodal.service")


class ProblemDetail(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str = ""


def problem_body(status: int, detail: str, request_id: str = "") -> bytes:
    """The body of an error, UTF-8."""
    title = HTTPStatus(status).phrase
    body = ProblemDetail(title=title, status=status, detail=detail[:_LONGEST], request_id=request_id)
    return json.dumps(body.model_dump(), ensure_ascii=False).encode("utf-8", "replace")


def problem_response(status: int, detail: str, request_id: str = "", headers: dict[str, str] | None = None) -> Response:
    return Response(problem_body(status, detail, request_id), status, headers, MEDIA_TYPE)


def explain(errors: Sequence[Any]) -> str:
    """pydantic's errors in one line: `query.0.text: …; k: …`."""
    lines = []
    for error in errors[:3]:
        place = ".".join(str(part) for part in error["loc"] if part not in ("body", "part", "parts"))
        lines.append(f"{place}: {error['msg']}" if place else str(error["msg"]))
    if len(errors) > 3:
        lines.append(f"and {len(errors) - 3} more")
    return "; ".join(lines)


def _allowed(request: Request) -> list[str]:
    """The methods of every route at this path; one route alone names only its own."""
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def install(app: FastAPI) -> None:
    """Answer every exception of the app with a problem."""

    def request_id(request: Request) -> str:
        return str(request.scope.get("request_id", ""))

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        if error.status in (400, 422) and not error.counted:
            count("invalid")
        return problem_response(error.status, error.detail, request_id(request), error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
            detail = f"{request.method} is not done at {request.url.path}; {headers['Allow']} is"
        if error.status_code == 404 and detail == "Not Found":
            detail = f"there is nothing at {request.url.path}; see /docs for every call"
        return problem_response(error.status_code, detail, request_id(request), headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid_request(request: Request, error: RequestValidationError) -> Response:
        count("invalid")
        return problem_response(422, explain(error.errors()), request_id(request))

    @app.exception_handler(ValidationError)
    async def _invalid(request: Request, error: ValidationError) -> Response:
        count("invalid")
        errors = error.errors(include_url=False, include_input=False)  # what was sent may be long
        for found in errors:
            if isinstance(cause := found.get("ctx", {}).get("error"), Exception):
                cause.__traceback__ = None  # it holds the whole request, in a circle
        return problem_response(422, explain(errors), request_id(request))

    @app.exception_handler(StoreUnavailable)
    async def _unavailable(request: Request, error: StoreUnavailable) -> Response:
        count("store")
        detail = "the store of the index does not answer; try again later"  # where it lies is the operator's to know
        return problem_response(503, detail, request_id(request), {"Retry-After": "2"})

    @app.exception_handler(StoreRefused)
    async def _refused(request: Request, error: StoreRefused) -> Response:
        count("invalid")
        if isinstance(error, BeyondStore):
            return problem_response(422, str(error), request_id(request))
        log.error("the store refuses a request", request_id=request_id(request), reason=str(error))
        return problem_response(422, "the store of the index refuses this request", request_id(request))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        log.error("a request failed", request_id=request_id(request), exc_info=error)
        return problem_response(500, "an internal error; the log has it under this request id", request_id(request))
