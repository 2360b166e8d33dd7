"""The load generator counts what was answered by status, knows who left, and does not wait for answers to go on."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.open_loop import GONE, Clients, Outcome, drive, mix, offer, post

GOOD, BUSY, SLOW = (post("/", body) for body in (b"good", b"busy", b"slow"))


class Answers:
    """A server of its own: 200, 503, or 200 after half a second."""

    def __init__(self) -> None:
        self.seen = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(4)
                self.seen += 1
                assert b"Content-Length: 4" in head
                if body == b"slow":
                    await asyncio.sleep(0.5)
                status = b"503 Busy" if body == b"busy" else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhe")
                await asyncio.sleep(0)
                writer.write(b"llo")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def served(run: object) -> tuple[Outcome, int]:
    answers = Answers()
    async with await asyncio.start_server(answers.serve, "127.0.0.1", 0) as server:
        clients = Clients(server.sockets[0].getsockname()[1])
        outcome = await run(clients)  # type: ignore[operator]
        clients.close()
    return outcome, answers.seen


def test_closed_loop_counts_by_status() -> None:
    pick = mix((1, [GOOD]), (1, [BUSY]))
    outcome, seen = asyncio.run(served(lambda clients: drive(clients, pick, 4, 0.3)))
    assert outcome.count(200) + outcome.count(503) == seen > 20
    assert outcome.seconds >= 0.3
    assert outcome.per_second() == pytest.approx(outcome.count(200) / outcome.seconds)
    assert set(outcome.statuses) == {"200", "503"}
    assert 0 < outcome.percentile_ms(50) < 300


def test_open_loop_does_not_wait_and_times_each() -> None:
    began = time.perf_counter()
    outcome, seen = asyncio.run(served(lambda clients: offer(clients, mix((1, [SLOW])), 100, 0.5, seed=3)))
    assert 25 < outcome.count(200) == seen < 90  # one at a time it would have been one or two
    assert 500 <= outcome.percentile_ms(1) < 1500
    assert 0.3 < outcome.after < 3
    assert outcome.seconds > 0.8  # to the last answer
    assert time.perf_counter() - began < 5


def test_clients_that_leave_are_gone() -> None:
    outcome, _ = asyncio.run(served(lambda clients: offer(clients, mix((1, [SLOW])), 100, 0.5, leaving=1.0, seed=3)))
    assert outcome.count(GONE) > 20
    assert outcome.count(200) < 5
