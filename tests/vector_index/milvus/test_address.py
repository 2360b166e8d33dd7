"""Addresses of stores."""

import pytest

from vector_index.milvus.address import Address


@pytest.mark.parametrize(
    ("text", "uri", "database", "name"),
    [
        ("milvus://db/photos", "http://db:19530", "", "photos"),
        ("milvus://db:1/team/photos", "http://db:1", "team", "photos"),
        ("milvus://[::1]:1/photos", "http://[::1]:1", "", "photos"),
        ("milvus+tls://db:443/photos", "https://db:443", "", "photos"),
        ("milvus+file:///a%20b/x.db", "/a b/x.db", "", "crossmodal"),
        ("milvus+file:///a/x.db/photos", "/a/x.db", "", "photos"),
    ],
)
def test_what_it_names(text: str, uri: str, database: str, name: str) -> None:
    assert Address.parse(text) == Address(text, uri, database, name)


@pytest.mark.parametrize(
    "text",
    ["", "photos", "http://db/photos", "milvus://db", "milvus://db/", "milvus:///photos", "milvus://db:x/photos", "milvus://db/a/b/c",
     "milvus://db/my-photos", "milvus://db/photos?x=1", "milvus+file://relative/x.db", "milvus+file:///a/photos",
     "milvus://[/x"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="address of a store"):
        Address.parse(text)


def test_no_password_is_shown() -> None:
    with pytest.raises(ValueError, match="CROSSMODAL_STORE_TOKEN") as raised:
        Address.parse("milvus://root:secret@db/photos")
    assert "secret" not in str(raised.value)
