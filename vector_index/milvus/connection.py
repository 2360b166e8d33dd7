"""Calls of Milvus that end in time, and what is done while it does not answer."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from vector_index.errors import StoreRefused, StoreUnavailable
from vector_index.milvus.address import Address

Call = Callable[..., Any]

_LOOK: Final = 1.0  # seconds between looks whether it answers again
_REFUSED: Final = (6, 1100, 1101)  # codes for what is wrong with the call itself: Lite's, then Milvus' own
_NOBODY: Final = 2  # pymilvus' code where it cannot connect
_NOT_LOADED: Final = 101  # Milvus Lite has started again: `revive` loads what is searched
_MISSING: Final = (100, 1600)  # no such collection, no such alias

log = logging.getLogger(__name__)


class NotThere(StoreUnavailable):
    """There is no collection, or no alias, of this name."""


class _Down(StoreUnavailable):
    """Nobody can be served."""


class _Late(StoreUnavailable):
    """No answer in time: of a store that is down, or to a call that takes long."""


class Connection:
    """Connects at the first call. Where nobody is there, or a call gets no answer in time and a cheap one then gets
    none either, every call fails at once, until a thread beside finds that the store answers again: nobody waits for a
    store that is known to be down. Any other call that fails does so alone."""

    def __init__(self, address: Address, token: str | None, timeout: float) -> None:
        """`timeout` is that of a call, in seconds, and that of connecting."""
        self.address, self._token, self._timeout = address, token, timeout
        self.revive: Callable[[Call], object] = lambda call: call("list_collections")
        self._client: Any = None
        self._lock = threading.Lock()
        self._down_since: float | None = None
        self._doubted = False
        self._closed = threading.Event()

    @property
    def down_for(self) -> float:
        """Seconds since it did not answer; 0 while it does."""
        since = self._down_since
        return 0.0 if since is None else time.monotonic() - since

    def call(self, method: str, *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        """Call a method of pymilvus.MilvusClient.

        Raises:
            StoreUnavailable: no answer in time, or one that is no answer to this; NotThere is one of these.
            StoreRefused: something is wrong with what is asked.
        """
        if self._down_since is not None:
            raise StoreUnavailable(f"{self.address}: the store has not answered for {self.down_for:.0f} s")
        try:
            return self._call(method, *arguments, timeout=timeout, **options)
        except _Down as error:
            self._watch(error)
            raise
        except _Late:
            self._doubt()
            raise

    def close(self) -> None:
        """Let go of it."""
        self._closed.set()
        if self._client is not None:
            self._client.close()

    def _call(self, method: str, *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        exceptions = load_pymilvus().exceptions
        from grpc import RpcError, StatusCode

        try:
            return getattr(self._connected(), method)(*arguments, timeout=timeout or self._timeout, **options)
        except exceptions.MilvusException as error:
            if error.code in (_NOBODY, StatusCode.UNAVAILABLE):
                raise _Down(f"{self.address}: the store does not answer") from None
            said = f"{self.address}: {error.message or type(error).__name__}"
            if error.code == _NOT_LOADED:
                raise _Down(said) from None
            if error.code in _MISSING:
                raise NotThere(said) from None
            # Found before it is sent.
            unfit = isinstance(error, exceptions.DataNotMatchException | exceptions.ParamError)
            if unfit or error.code in _REFUSED or error.is_input_error:
                raise StoreRefused(f"the store refuses it: {error.message}") from None
            raise StoreUnavailable(said) from None
        except RpcError as error:
            code = getattr(error, "code", None)
            kind = _Late if code and code() is StatusCode.DEADLINE_EXCEEDED else StoreUnavailable
            raise kind(f"{self.address}: {code().name if code else error}") from None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = load_pymilvus().MilvusClient(
                    self.address.uri,
                    token=self._token or "",
                    db_name=self.address.database,
                    timeout=self._timeout,
                    dedicated=True,
                )
            return self._client

    def _watch(self, error: StoreUnavailable) -> None:
        with self._lock:
            if self._down_since is not None or self._closed.is_set():
                return
            self._down_since = time.monotonic()
        if self._client is not None:  # else the error tells whoever opens it
            log.error("the store fails: %s", error)
        threading.Thread(target=self._look, name="store", daemon=True).start()

    def _doubt(self) -> None:
        """Ask for something cheap beside: nobody waits for that."""
        with self._lock:
            if self._doubted or self._down_since is not None or self._closed.is_set():
                return
            self._doubted = True

        def probe() -> None:
            try:
                self._call("list_collections")
            except (_Down, _Late) as error:
                self._watch(error)
            except Exception:
                pass  # it answers, or is closed
            finally:
                self._doubted = False

        threading.Thread(target=probe, name="store", daemon=True).start()

    def _look(self) -> None:
        while not self._closed.wait(_LOOK):
            try:
                self.revive(self._call)
            except Exception:  # whatever it is: who else would look again
                continue
            log.error("the store answers again, after %.0f s", self.down_for)
            self._down_since = None
            return


def load_pymilvus() -> Any:
    """The package, once it is needed: it takes a second to import."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else each process that is started is told of
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")  # pymilvus would read settings from a file .env
    try:
        import pymilvus
    except ImportError:
        raise ValueError("a store in Milvus needs pymilvus: pip install 'crossmodal[milvus]'") from None
    for name in ("pymilvus", "milvus_lite", "grpc._server"):  # each error with its traceback; they are told here too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus
