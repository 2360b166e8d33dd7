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
     "milvus://[/x", "milvus+file:photos"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="address of a store"):
        Address.parse(text)


@pytest.mark.parametrize(
    "text",
    ["milvus://root:secret@db/photos", "milvus://user:secret@db:19x/photos", "milvus://user:se/cret@db/photos",
     "milvus+file://user:secret@db/x.db", "http://user:secret@[db/photos"],
)  # fmt: skip
def test_no_password_is_shown(text: str) -> None:
    with pytest.raises(ValueError, match="CROSSMODAL_STORE_TOKEN") as raised:
        Address.parse(text)
    assert "cret" not in str(raised.value)
    assert "user" not in str(raised.value)


def test_a_file_may_have_an_at_sign() -> None:
    assert Address.parse("milvus+file:///a@b/x.db").uri == "/a@b/x.db"
