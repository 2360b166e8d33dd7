"""What is told to the person who sent a request."""

from __future__ import annotations


class Problem(Exception):
    """Raise it anywhere below a route; `detail` is for the person who sent the request.

    `counted`: among the refusals, by whoever made it.
    """

    def __init__(
        self, status: int, detail: str, headers: dict[str, str] | None = None, *, counted: bool = False
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.counted = status, detail, headers, counted


# In the ASGI scope of a request that has come whole: functions to call once its client has gone. Only our server tells.
WHEN_GONE = "crossmodal.when_gone"


class ClientGone(BaseException):
    """Nobody is left to answer; what the request waited for has been let go. Like a cancellation no error to handle."""
