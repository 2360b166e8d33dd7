"""Texts share rows, in few shapes, and are told from one another: nothing of that changes a vector."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dual_encoder
from dual_encoder import DualEncoder, ModelError, load_encoder
from dual_encoder.packing import _LENGTHS, _ROWS, LARGEST, Inputs, TextTower, pack
from dual_encoder.record import read_record, write_record

_CONTEXT = 77
_END = 500
_TEXTS = st.lists(
    st.lists(st.integers(1, _END - 1), max_size=_CONTEXT - 1).map(lambda ids: np.array([*ids, _END], np.int64)),
    min_size=1,
    max_size=40,
)


@given(_TEXTS, st.sampled_from([LARGEST, _END]))
def test_every_text_lies_whole_in_one_row(texts: list[np.ndarray], end: int | str) -> None:
    found: dict[int, list[int]] = {}
    for tokens, positions, which, ends in pack(texts, _CONTEXT, end):
        assert tokens.shape == positions.shape
        assert len(tokens) <= _ROWS
        assert tokens.shape[1] in (*_LENGTHS, _CONTEXT)
        used = np.zeros(tokens.size, dtype=int)
        for text, place in zip(which, ends, strict=True):
            length = len(texts[text])
            cells = slice(place - length + 1, place + 1)
            assert (place - length + 1) // tokens.shape[1] == place // tokens.shape[1]
            assert positions.reshape(-1)[cells].tolist() == list(range(length))
            found[text] = tokens.reshape(-1)[cells].tolist()
            used[cells] += 1
        assert used.max() <= 1
        assert not tokens.reshape(-1)[used == 0].any()
        assert not positions.reshape(-1)[used == 0].any()
    assert [found[i] for i in range(len(texts))] == [text.tolist() for text in texts]


def test_little_is_padding() -> None:
    rng = np.random.default_rng(0)
    for count in (10, 20, 200):
        texts = [np.ones(length, np.int64) for length in rng.integers(5, 25, count)]
        positions = sum(call.tokens.size for call in pack(texts, _CONTEXT, LARGEST))
        assert positions < 1.1 * sum(map(len, texts))
    assert [call.tokens.shape for call in pack([np.ones(11, np.int64)], _CONTEXT, LARGEST)] == [(1, 12)]


def test_a_text_that_holds_the_end_is_read_at_the_first() -> None:
    text = np.array([400, 3, _END, 4, _END], np.int64)
    for end in (LARGEST, _END):
        (call,) = pack([text], _CONTEXT, end)
        assert call.ends == [2]


def test_a_tower_that_is_not_causal_gets_whole_contexts() -> None:
    seen: list[tuple[int, ...]] = []

    def tower(calls: Iterable[Inputs]) -> list[np.ndarray]:
        given = [tokens for (tokens,) in calls]
        seen.extend(tokens.shape for tokens in given)
        return [tokens[:, :2].astype(np.float32) for tokens in given]

    texts = [np.array([i + 1, 7], np.int64) for i in range(21)]
    assert TextTower(tower, 16, None)(texts)[:, 0].tolist() == list(range(1, 22))
    assert seen == [(16, 16), (4, 16), (1, 16)]


def test_features_of_every_position_are_let_go_as_they_come() -> None:
    """All captions of a data set would be gigabytes."""
    held: list[weakref.ref[np.ndarray]] = []
    most = 0

    def tower(calls: Iterable[Inputs]) -> Iterator[np.ndarray]:
        nonlocal most
        for tokens, _ in calls:
            every = tokens[..., np.newaxis].astype(np.float32)
            held.append(weakref.ref(every))
            yield every
            del every
            most = max(most, sum(each() is not None for each in held))

    texts = [np.array([1 + i % 400, _END], np.int64) for i in range(2000)]
    assert TextTower(tower, 16, LARGEST)(texts).tolist() == [[_END]] * 2000
    assert len(held) > 5
    assert most <= 1


def test_packed_texts_give_what_each_gives_alone(encoder: DualEncoder) -> None:
    texts = [" ".join(["a red star", "红色"][i % 2] for _ in range(1 + i % 13)) for i in range(70)]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    together = encoder.encode_texts(texts)
    assert (alone * together).sum(axis=1).min() > 0.999


def test_pictures_come_in_few_counts(encoder: DualEncoder) -> None:
    pixels = np.zeros((13, 3, *encoder.image_size), np.float32)
    assert encoder.encode_pixels(pixels).shape == (13, encoder.dim)


def test_an_older_export_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(Path(dual_encoder.__file__).parent / "tiny", old)
    facts = read_record(old / "model.json")
    del facts["format"]
    write_record(old / "model.json", facts)
    with pytest.raises(ModelError, match="exported by another version of crossmodal: export the model again"):
        load_encoder(str(old), lazy=True)


def test_streams_encode_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    encoder = load_encoder("tiny", threads=2)
    assert encoder.streams == 2
    texts = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "cross")]
    texts += [" ".join(["blue"] * count) for count in range(1, 60)]  # more than one call
    wanted = np.concatenate([encoder.encode_texts([text]) for text in texts])
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encoder.encode_texts(texts), range(40)):
            np.testing.assert_allclose(found, wanted, atol=0.02)
