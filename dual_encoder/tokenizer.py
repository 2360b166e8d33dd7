"""Text -> token ids, with the `tokenizers` library and a tokenizer.json; equal to open_clip's own tokenizer."""

from __future__ import annotations

import html
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Characters: one text so long is encoded by a call that keeps the interpreter's lock, and need not wait to get it back.
_SHORT = 500
START, END = "<start_of_text>", "<end_of_text>"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """CLIP's byte-pair encoding: cleaned and lower-cased text, framed by start and end of text."""

    def __init__(self, path: Path, context_length: int, clean: str = "lower") -> None:
        from tokenizers import Tokenizer as Backend

        self.context_length = context_length
        self._clean = clean
        self._backend = Backend.from_file(str(path))
        vocabulary = self._backend.get_vocab()
        self._start, self._end = vocabulary[START], vocabulary[END]

    def __call__(self, texts: list[str]) -> NDArray[np.int64]:
        """Texts -> ids int64 (n, length), zero-padded to the longest; a text over the context length is cut."""
        # U+0345, a mark that folds to a letter, is in none of the pattern's classes under open_clip's IGNORECASE.
        cleaned = [clean(text, self._clean).replace("\u0345", " ") for text in texts]
        if len(cleaned) == 1 and len(cleaned[0]) <= _SHORT:
            encoded = [self._backend.encode(cleaned[0], add_special_tokens=False)]
        else:
            encoded = self._backend.encode_batch_fast(cleaned, add_special_tokens=False)
        rows: list[list[int]] = []
        for encoding in encoded:
            rows.append([self._start, *encoding.ids[: self.context_length - 2], self._end])
        tokens = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        return tokens


def clean(text: str, kind: str = "lower") -> str:
    """What open_clip does first: mend mojibake, undo HTML entities twice, fold white space.

    `kind` is open_clip's: `whitespace` is that alone, `lower` also lower-cases, `canonicalize` (SigLIP) also takes
    ASCII punctuation away.
    """
    if not text.isascii() or "&" in text or not text.isprintable():  # else nothing to mend, and ftfy is slow
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(_NO_PUNCTUATION)
    text = " ".join(text.split())
    return text if kind == "whitespace" else text.lower()


def clean_kind(function: Any) -> str:
    """The kind of one of open_clip's cleaning functions."""
    from open_clip.tokenizer import get_clean_fn

    return next(kind for kind in ("lower", "canonicalize", "whitespace") if get_clean_fn(kind) is function)


def write_tokenizer(simple: Any, path: Path) -> None:
    """Write an open_clip SimpleTokenizer as tokenizer.json."""
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    special = [
        {"id": simple.encoder[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in (START, END)
    ]  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Removed", "invert": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": simple.encoder,
            "merges": [" ".join(pair) for pair in merges],
        },
    }
    path.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
