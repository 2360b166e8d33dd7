"""What is told to the person who sent a request."""

from __future__ import annotations


class Problem(Exception):
    """Raise it anywhere below a route; `detail` is for the person who sent the request."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class ClientGone(Exception):
    """Nobody is left to answer; what the request waited for has been let go."""
