"""Where an index lies in Milvus: `milvus://HOST:PORT/NAME`, or a file for Milvus Lite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

FORMS: Final = "milvus://HOST:PORT/NAME, milvus+tls://HOST:PORT/NAME or milvus+file:///PATH.db/NAME"
_DEFAULT_PORT: Final = 19530
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True)
class Address:
    """`uri` as pymilvus takes it, the database in it ("" is its default) and the alias that names the live snapshot."""

    text: str
    uri: str
    database: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take an address apart. A database may stand before the name: `milvus://HOST:PORT/DATABASE/NAME`.

        Raises:
            ValueError: it is of another form, or has a password in it, which would show in logs and lists of processes.
        """
        if "@" in text and not text.startswith("milvus+file:///"):  # before anything that shows it
            raise ValueError("the address of a store has no password in it: set CROSSMODAL_STORE_TOKEN")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{text}: not the address of a store ({error})") from None
        path = unquote(parts.path)
        if parts.scheme == "milvus+file":
            file, _, name = (path, "", "crossmodal") if path.endswith(".db") else path.rpartition("/")
            found = cls(text, file, "", name)
            sound = file.endswith(".db") and not host
        else:
            *database, name = path.strip("/").split("/")
            protocol = {"milvus": "http", "milvus+tls": "https"}.get(parts.scheme, "")
            shown = f"[{host}]" if host and ":" in host else host
            found = cls(text, f"{protocol}://{shown}:{port or _DEFAULT_PORT}", "".join(database), name)
            sound = bool(protocol and host) and len(database) <= 1
        if not sound or parts.query or parts.fragment or not _NAME.fullmatch(found.name):
            raise ValueError(f"{text}: the address of a store is {FORMS}; NAME has letters, digits and _")
        return found

    def __str__(self) -> str:
        return self.text
