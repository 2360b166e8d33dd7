"""infinity-emb's engine, as its documentation embeds it in a FastAPI application, before the same FAISS index.

MODEL=model-directory SNAPSHOT=snapshot-directory FOLDER=where-to-keep-the-model uvicorn infinity_server:app
Run by peers in an environment of its own. The engine is torch in float32, without BetterTransformer: of the engines
that infinity has for a CPU the only one that takes CLIP. It batches what waits, and pads a batch to its longest text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from fastapi import FastAPI, UploadFile
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
from pydantic import BaseModel


def as_transformers(model: Path, folder: Path) -> Path:
    """A CLIPModel of ViT-B-32's sizes with random weights and the model's own tokenizer; kept if it is there."""
    if not (folder / "preprocessor_config.json").is_file():
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

        folder.mkdir(exist_ok=True)
        CLIPModel(CLIPConfig(max_length=77)).save_pretrained(folder)  # transformers' defaults are ViT-B-32's sizes
        bpe = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]
        names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # as transformers has them
        vocabulary = {names.get(word, word): id for word, id in bpe["vocab"].items()}
        (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
        words = CLIPTokenizerFast.from_pretrained(folder, model_max_length=77)
        assert words("a red star")["input_ids"][::4] == [49406, 49407]
        CLIPProcessor(CLIPImageProcessor(), words).save_pretrained(folder)
    return folder


model = as_transformers(Path(os.environ["MODEL"]), Path(os.environ["FOLDER"]))
arguments = EngineArgs(
    model_name_or_path=str(model), engine="torch", device="cpu", bettertransformer=False, model_warmup=False
)
engine = AsyncEmbeddingEngine.from_args(arguments)
snapshot = Path(os.environ["SNAPSHOT"])
index = faiss.read_index(str(snapshot / "images.faiss"))
index.hnsw.efSearch = json.loads((snapshot / "manifest.json").read_text())["images"]["index"]["parameters"]["efSearch"]
table = pa.ipc.open_file(pa.memory_map(str(snapshot / "images.arrow"))).read_all()
ids, uris = table["id"].to_pylist(), table["uri"].to_pylist()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine:
        yield


app = FastAPI(lifespan=lifespan)


class Query(BaseModel):
    text: str
    k: int = 10


def search(vectors: Sequence[np.ndarray], k: int) -> dict[str, object]:
    scores, rows = index.search(np.asarray(vectors, dtype=np.float32), k)
    return {
        "hits": [{"id": ids[r], "uri": uris[r], "score": float(s)} for s, r in zip(scores[0], rows[0], strict=True)]
    }


@app.post("/search")
async def search_text(query: Query) -> dict[str, object]:
    vectors, _ = await engine.embed([query.text])
    return await asyncio.to_thread(search, vectors, query.k)


@app.post("/search/image")
async def search_picture(image: UploadFile, k: int = 10) -> dict[str, object]:
    vectors, _ = await engine.image_embed(images=[await image.read()])
    return await asyncio.to_thread(search, vectors, k)


@app.get("/ready")
async def ready() -> bool:
    return True
