"""Models with a Hugging Face tokenizer: ids and vectors equal open_clip's own, with neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from dual_encoder import ModelError, load_encoder
from dual_encoder.encoder import lengths_of
from dual_encoder.export import export_model
from dual_encoder.hf_tokenizer import HuggingFaceTokenizer, write_hf_tokenizer
from dual_encoder.open_clip_model import load_open_clip
from dual_encoder.reference import parse_reference
from dual_encoder.text_tower import is_cuttable
from dual_encoder.tokenizer import Tokenizer, clean, clean_kind, write_tokenizer
from tests.dual_encoder.test_parity import SMALL_VIT, cosine, pictures, reference_vectors, save_random
from tests.dual_encoder.test_tokenizer import CORPUS

transformers = pytest.importorskip("transformers")
CONTEXT = 16
FIRST = {"unigram": ["<pad>", "</s>", "<unk>"], "wordpiece": ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]}


def make_tokenizer(kind: str, out: Path, **options: Any) -> Path:
    """Like SigLIP's (pad 0, ends with </s>), or like BERT's with the unknown word as 0 and padding as 3."""
    first = FIRST[kind]
    if kind == "unigram":
        backend = Backend(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=first, unk_token="<unk>", show_progress=False
        )
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        frame = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    else:
        backend = Backend(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=first, show_progress=False)
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        frame = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    backend.train_from_iterator([text for text in CORPUS if len(text) < 500], trainer)
    backend.post_processor = frame
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names | options).save_pretrained(out)
    return out


@pytest.fixture(scope="module", params=["unigram", "wordpiece", "wordpiece-left"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HFTokenizer, HuggingFaceTokenizer]:
    """open_clip's tokenizer and ours."""
    kind, _, left = request.param.partition("-")
    options = {"padding_side": "left", "truncation_side": "left"} if left else {}
    theirs_at, ours_at = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    make_tokenizer(kind, theirs_at, **options)
    cleaning = "canonicalize" if kind == "unigram" else "whitespace"
    theirs = HFTokenizer(str(theirs_at), CONTEXT, clean=cleaning, strip_sep_token=kind == "wordpiece")
    facts = write_hf_tokenizer(theirs, ours_at)
    assert facts == {"kind": "huggingface", "clean": cleaning, "strip_id": 2 if kind == "wordpiece" else None}
    return theirs, HuggingFaceTokenizer(ours_at / "tokenizer.json", facts["clean"], facts["strip_id"])


def test_corpus(pair: tuple[HFTokenizer, HuggingFaceTokenizer]) -> None:
    theirs, ours = pair
    special = [*FIRST["unigram"], *FIRST["wordpiece"]]
    for text in [*CORPUS, *special, f"a {' '.join(special)} b"]:
        np.testing.assert_array_equal(ours([text]), theirs([text]).numpy(), err_msg=repr(text))
    np.testing.assert_array_equal(ours(CORPUS), theirs(CORPUS).numpy())


def test_one_that_does_not_fit(pair: tuple[HFTokenizer, HuggingFaceTokenizer], tmp_path: Path, at_most: Any) -> None:
    """`tokenizers` raises bare Exception."""
    with at_most(1000), pytest.raises(OSError, match=r"File too large.*tokenizer\.json"):
        write_hf_tokenizer(pair[0], tmp_path)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text(pair: tuple[HFTokenizer, HuggingFaceTokenizer], text: str) -> None:
    theirs, ours = pair
    np.testing.assert_array_equal(ours([text]), theirs([text]).numpy())


@pytest.mark.parametrize("kind", ["lower", "canonicalize", "whitespace"])
@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.sampled_from(CORPUS)))
def test_cleaning(kind: str, text: str) -> None:
    assert clean(text, kind) == get_clean_fn(kind)(text)
    assert clean_kind(get_clean_fn(kind)) == kind


def test_clip_tokenizer_that_canonicalises(tmp_path: Path) -> None:
    theirs = SimpleTokenizer(clean="canonicalize")
    write_tokenizer(theirs, tmp_path / "tokenizer.json")
    ours = Tokenizer(tmp_path / "tokenizer.json", 77, "canonicalize")
    for text in CORPUS:
        tokens, want = ours([text])[0], theirs([text])[0].numpy()
        np.testing.assert_array_equal(tokens, want[: len(tokens)], err_msg=repr(text))
        assert not want[len(tokens) :].any()


def test_lengths_count_zeros_within() -> None:
    assert lengths_of(np.array([[5, 0, 6, 0], [0, 0, 0, 7], [8, 0, 0, 0]])).tolist() == [3, 4, 1]


TEXT = {"context_length": CONTEXT, "vocab_size": 400, "width": 64, "heads": 2, "layers": 2, "hf_tokenizer_name": "here"}
SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "siglip": ("unigram", SIGLIP, {"init_logit_bias": -10, "init_logit_scale": 2.5}),
    "clipa": ("wordpiece", {"pool_type": "last", "tokenizer_kwargs": {"strip_sep_token": True}}, {}),
    "causal-eos": ("unigram", {"pool_type": "eos", "eos_id": 1}, {}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kind, text, options = MODELS[request.param]
    config = {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": TEXT | text, "custom_text": True, **options}
    directory = save_random(config, tmp_path_factory.mktemp(request.param) / "model")
    make_tokenizer(kind, directory)
    return directory


@pytest.mark.filterwarnings("ignore")
def test_exported_models(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = load_open_clip(parse_reference(str(model)))
    assert isinstance(source.tokenizer, HFTokenizer)
    assert is_cuttable(source.model) == ("causal-eos" in str(model))
    _, want_images = reference_vectors(source)
    with torch.inference_mode():
        want = source.model.encode_text(source.tokenizer(CORPUS)).numpy()
    out = export_model(str(model), tmp_path / "out")
    facts = json.loads((out / "model.json").read_text())
    bias = source.model.logit_bias
    assert facts["logit_bias"] == (None if bias is None else bias.item())
    for directory, runtime in ((model, "torch"), (out, "torch"), (out, "openvino")):
        encoder = load_encoder(str(directory), runtime=runtime, precision="fp32")
        assert (encoder.fingerprint, encoder.logit_bias) == (source.fingerprint, facts["logit_bias"])
        np.testing.assert_array_equal(encoder.tokenize(CORPUS), source.tokenizer(CORPUS).numpy())
        assert cosine(encoder.encode_texts(CORPUS), want) >= 0.99999
        one_by_one = np.concatenate([encoder.encode_texts([text]) for text in CORPUS])
        assert cosine(one_by_one, want) >= 0.99999
        assert cosine(encoder.encode_images(pictures()), want_images) >= 0.99999
    if "siglip" not in str(model):
        return
    assert (facts["logit_bias"], facts["tokenizer"]["clean"]) == (-10, "canonicalize")
    code = (
        "import sys; from dual_encoder import load_encoder\n"
        "load_encoder(sys.argv[1], runtime='openvino').encode_texts(['a cat'])\n"
        "assert not {'torch', 'open_clip', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=True)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = TEXT | SIGLIP
    config = {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": text, "custom_text": True}
    directory = save_random(config, tmp_path / "model")
    make_tokenizer("unigram", directory, pad_token=None)
    with pytest.raises(ModelError, match=r"cannot be exported: its tokenizer does not work: .*pad"):
        export_model(str(directory), tmp_path / "out")
    make_tokenizer("unigram", directory)
    settings = json.loads((directory / "open_clip_config.json").read_text())
    settings["model_cfg"]["text_cfg"]["tokenizer_mode"] = "clips"
    (directory / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"no tokenizer\.json that gives the same ids; use runtime torch"):
        export_model(str(directory), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match="needs the package transformers: pip install transformers"):
        load_encoder(str(directory), runtime="torch")
