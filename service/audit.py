"""Who did what to the service: a line each, on the logger `crossmodal.audit`, at every level of logs."""

from __future__ import annotations

from service import logs

log = logs.logger("crossmodal.audit")
_LONGEST = 200  # characters of what a client chose


def record(action: str, *, who: str, result: str | int, **facts: object) -> None:
    """Write one line. `who` is a key's prefix and name, a token's subject or a user of this machine; never a secret."""
    cut = {name: value[:_LONGEST] if isinstance(value, str) else value for name, value in facts.items()}
    log.info(action, who=who, result=result, **cut)
