"""How many requests each caller may make: counted in this process, or in a Redis that replicas share.

Several limits together are a rate and quotas (`10/second;10000/day`): what a shorter one refuses uses up no longer one.
A sliding window of two counters: the same memory for a million requests a day as for one a second, and no burst of
twice the limit where two windows meet. In Redis the library `limits` counts so; its storage in memory looks through all
callers a hundred times a second and bounds them by nothing.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, parse_many
from prometheus_client import Counter, Gauge

from service import logs

log = logs.logger("crossmodal.rate_limit")
REDIS_FAILURES = Counter("crossmodal_rate_limit_redis_failures_total", "Requests counted here while Redis is silent")
REDIS_DOWN = Gauge(
    "crossmodal_rate_limit_redis_down", "1 while a process counts because Redis does not", multiprocess_mode="livemax"
)

_PATIENCE = 0.1  # seconds that a request waits for Redis
_TRY_AGAIN = 5.0  # seconds until Redis is asked again after it failed
_CALLERS = 100_000  # whom one limit remembers in this process, in some 30 MB


@dataclass(frozen=True)
class Verdict:
    """`headers` go with the answer. `wait` is 0, or in how many seconds a request would be let through; `limit` says
    which limit that is of.
    """

    wait: int
    headers: list[tuple[bytes, bytes]]
    limit: str


def parse_limits(text: str) -> list[RateLimitItem]:
    """`100/second;100000/day`. Raises ValueError."""
    try:
        return sorted(parse_many(text), key=lambda item: item.get_expiry())
    except ValueError:
        raise ValueError(f"rate limit {text!r} is not like 100/second or 10/second;10000/day") from None


class Counts:
    """The requests of each caller under one limit. Who has not been heard of longest goes first, and starts anew."""

    def __init__(self, item: RateLimitItem, most: int = _CALLERS) -> None:
        self.item = item
        self._seconds, self._most = item.get_expiry(), most
        # The window that a caller was last let through in, by number; requests in it, and in the one before.
        self._callers: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._callers)

    def hit(self, caller: str, now: float) -> tuple[bool, int, float]:
        """Count a request at `now`, by time.time(), unless it is one too many.

        Whether it was counted; how many more would be; in how many seconds there will be more, or room for one.
        """
        number, passed = int(now // self._seconds), now % self._seconds
        then, current, before = self._callers.pop(caller, (number, 0, 0))
        if then != number:
            current, before = 0, current if then == number - 1 else 0
        room = self.item.amount - current - math.floor(before * (1 - passed / self._seconds))
        wait = self._seconds - passed
        if room > 0:
            current += 1
        elif current < self.item.amount:  # until enough of those before no longer count
            wait -= self._seconds * (self.item.amount - current) / before
        self._callers[caller] = number, current, before
        for _ in range(2):  # one may have been added
            oldest, (then, _, _) = next(iter(self._callers.items()))
            if then >= number - 1 and len(self._callers) <= self._most:
                break
            del self._callers[oldest]
        return room > 0, max(0, room - 1), wait


def _counters(limit: str) -> list[Counts]:
    return [Counts(item) for item in parse_limits(limit)]


class RateLimit:
    """Use from one event loop. Raises ValueError for a limit that cannot be read, or without the package redis."""

    def __init__(self, limit: str | None, redis_url: str | None = None) -> None:
        try:
            self._default = _counters(limit) if limit else []
        except ValueError as error:
            raise ValueError(f"CROSSMODAL_RATE_LIMIT: {error}") from None
        self._own: dict[str, list[Counts]] = {}
        self._shared = _redis(redis_url) if redis_url else None
        self._ask_at = 0.0
        self._up = True

    @property
    def is_on(self) -> bool:
        return bool(self._default)

    async def hit(self, caller: str, limit: str | None = None) -> Verdict | None:
        """Count a request of `caller`, under its own `limit` if it has one. None: there is no limit."""
        counters = self._own_counters(limit) if limit else self._default
        if not counters:
            return None
        items = [each.item for each in counters]
        if self._shared is not None and time.monotonic() >= self._ask_at:
            try:
                async with asyncio.timeout(_PATIENCE):
                    verdict = await self._hit_shared(items, caller)
            except Exception as error:  # whatever its client raises: nobody is turned away because Redis is
                self._lost(error)
            else:
                self._found()
                return verdict
        if self._shared is not None:
            REDIS_FAILURES.inc()
        now = time.time()
        told = None
        for each in counters:
            passed, left, seconds = each.hit(caller, now)
            if not passed:
                return _verdict(items, each.item, 0, seconds, refused=True)
            told = told or (left, seconds)
        assert told is not None
        return _verdict(items, items[0], *told)

    async def _hit_shared(self, items: list[RateLimitItem], caller: str) -> Verdict:
        assert self._shared is not None
        for item in items:
            if not await self._shared.hit(item, caller):
                reset, _ = await self._shared.get_window_stats(item, caller)
                return _verdict(items, item, 0, reset - time.time(), refused=True)
        return _verdict(items, items[0])

    def _own_counters(self, limit: str) -> list[Counts]:
        if limit not in self._own:
            self._own[limit] = _counters(limit)
        return self._own[limit]

    def _lost(self, error: Exception) -> None:
        self._ask_at = time.monotonic() + _TRY_AGAIN
        REDIS_DOWN.set(1)
        if self._up:
            self._up = False
            log.warning("Redis does not answer: requests are counted in this process", reason=type(error).__name__)

    def _found(self) -> None:
        if not self._up:
            self._up = True
            REDIS_DOWN.set(0)
            log.warning("Redis answers again: requests are counted there")


def _verdict(
    items: list[RateLimitItem], item: RateLimitItem, left: int | None = None, wait: float = 0.0, refused: bool = False
) -> Verdict:
    """Headers of draft-ietf-httpapi-ratelimit-headers; what is left is told where that costs no second question."""
    seconds = max(1, int(wait) + 1)
    headers = [(b"ratelimit-policy", _policies(tuple(items)))]
    if left is not None:
        headers.append((b"ratelimit", b"%b;r=%d;t=%d" % (_name(item, items), left, seconds)))
    return Verdict(seconds if refused else 0, headers, str(item))


@functools.lru_cache(maxsize=256)
def _policies(items: tuple[RateLimitItem, ...]) -> bytes:
    return b", ".join(b"%b;q=%d;w=%d" % (_name(item, items), item.amount, item.get_expiry()) for item in items)


def _name(item: RateLimitItem, items: Sequence[RateLimitItem]) -> bytes:
    if len(items) == 1:
        return b'"default"'
    several = b"%d" % item.multiples if item.multiples > 1 else b""
    return b'"%b%b"' % (several, item.GRANULARITY.name.encode())


def _redis(url: str) -> Any:
    try:
        import redis  # noqa: F401
    except ImportError:
        raise ValueError("CROSSMODAL_REDIS_URL needs the package redis: pip install 'crossmodal[redis]'") from None
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import SlidingWindowCounterRateLimiter as Shared
    from limits.errors import ConfigurationError

    try:
        storage = RedisStorage(
            f"async+{url}", implementation="redispy", key_prefix="crossmodal",
            socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE,
        )  # fmt: skip
    except (ConfigurationError, ValueError):  # which may hold the password
        raise ValueError("CROSSMODAL_REDIS_URL is not like redis://:PASSWORD@HOST:6379/0") from None
    return Shared(storage)
