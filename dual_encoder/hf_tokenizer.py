"""Text -> token ids for models with a Hugging Face tokenizer (SigLIP, CLIPA, …), without transformers or torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.errors import ModelError, brief
from dual_encoder.files import in_native_code
from dual_encoder.tokenizer import clean as cleaned
from dual_encoder.tokenizer import clean_kind

# What a written tokenizer is tried on before it is accepted.
_TRIAL = (
    "", "a", "A photo of a CAT, it's 3.5 m_tall!", "  two\t lines\n ", "word " * 300, "naïve façade ß İ",
    "红色的星形在蓝色圆形的左边", "日本語 한국어 हिन्दी", "e\u0301 ﬁ ½ ＡＢＣ", "control \x00\x1b chars",
    "😀 \U0001f469\u200d\U0001f469\u200d\U0001f467", "&lt;b&gt; &amp;amp; cafÃ©",
)  # fmt: skip


class HuggingFaceTokenizer:
    """A `tokenizer.json` that cuts, frames and pads by itself, after open_clip's cleaning of kind `clean`.

    `strip_id` is replaced by 0 (open_clip's `strip_sep_token`).
    """

    def __init__(self, path: Path, clean: str, strip_id: int | None = None) -> None:
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_file(str(path))
        self._clean, self._strip_id = clean, strip_id

    def __call__(self, texts: list[str]) -> NDArray[np.int64]:
        """Texts -> ids int64 (n, context length), padded with the tokenizer's own padding id, which need not be 0."""
        encoded = self._backend.encode_batch_fast([cleaned(text, self._clean) for text in texts])
        tokens = np.array([encoding.ids for encoding in encoded], dtype=np.int64)
        if self._strip_id is not None:
            tokens[tokens == self._strip_id] = 0
        return tokens


def write_hf_tokenizer(theirs: Any, out: Path) -> dict[str, Any]:
    """Write an open_clip HFTokenizer into `out`, as transformers keeps it; returns what model.json says of it.

    Raises ModelError: it is not a fast tokenizer, or what was written gives other ids than open_clip's own; OSError.
    """
    inner = theirs.tokenizer
    if theirs.tokenizer_mode == "clips" or not getattr(inner, "is_fast", False):
        raise ModelError(f"its {type(inner).__name__} has no tokenizer.json that gives the same ids")
    trial = [*_TRIAL, *inner.all_special_tokens]
    try:
        wanted = theirs(trial).numpy()  # also sets cutting and padding, which the file then keeps
    except ValueError as error:  # no padding token
        raise ModelError(f"its tokenizer does not work: {brief(error)}") from None
    with in_native_code(out / "tokenizer.json"):
        inner.save_pretrained(out)
        inner.backend_tokenizer.save(str(out / "tokenizer.json"))
    clean, strip_id = clean_kind(theirs.clean_fn), inner.sep_token_id if theirs.strip_sep_token else None
    ours = HuggingFaceTokenizer(out / "tokenizer.json", clean, strip_id)
    for text, want, got in zip(trial, wanted, ours(trial), strict=True):
        if not np.array_equal(want, got):
            raise ModelError(f"its tokenizer, written as tokenizer.json, differs from open_clip's on {text[:40]!r}")
    return {"kind": "huggingface", "clean": clean, "strip_id": strip_id}
