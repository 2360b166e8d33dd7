"""The usual way: FastAPI, open_clip as it comes, and the same FAISS index. Run by peers.py.

MODEL=model-directory SNAPSHOT=snapshot-directory uvicorn open_clip_server:app
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from pathlib import Path

import faiss
import open_clip
import pyarrow as pa
import torch
from fastapi import FastAPI, UploadFile
from PIL import Image
from pydantic import BaseModel

model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{os.environ['MODEL']}")
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{os.environ['MODEL']}")
snapshot = Path(os.environ["SNAPSHOT"])
index = faiss.read_index(str(snapshot / "images.faiss"))
index.hnsw.efSearch = json.loads((snapshot / "manifest.json").read_text())["images"]["index"]["parameters"]["efSearch"]
table = pa.ipc.open_file(pa.memory_map(str(snapshot / "images.arrow"))).read_all()
ids, uris = table["id"].to_pylist(), table["uri"].to_pylist()
turn = threading.Lock()  # torch uses every core for one query: two at once would only slow each other down
app = FastAPI()


class Query(BaseModel):
    text: str
    k: int = 10


def search(features: torch.Tensor, k: int) -> dict[str, object]:
    vector = torch.nn.functional.normalize(features, dim=-1).numpy()
    scores, rows = index.search(vector, k)
    return {
        "hits": [{"id": ids[r], "uri": uris[r], "score": float(s)} for s, r in zip(scores[0], rows[0], strict=True)]
    }


@torch.inference_mode()
def by_text(text: str, k: int) -> dict[str, object]:
    with turn:
        return search(model.encode_text(tokenizer([text])), k)


@torch.inference_mode()
def by_picture(data: bytes, k: int) -> dict[str, object]:
    pixels = preprocess(Image.open(io.BytesIO(data))).unsqueeze(0)
    with turn:
        return search(model.encode_image(pixels), k)


@app.post("/search")
async def search_text(query: Query) -> dict[str, object]:
    return await asyncio.to_thread(by_text, query.text, query.k)


@app.post("/search/image")
async def search_picture(image: UploadFile, k: int = 10) -> dict[str, object]:
    return await asyncio.to_thread(by_picture, await image.read(), k)


@app.get("/ready")
async def ready() -> bool:
    return True
