"""clip-retrieval's back end over the same model and index. Run by peers.py in an environment of its own.

clip_retrieval_server.py MODEL SNAPSHOT FOLDER PORT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
from clip_retrieval.clip_back import clip_back

model, snapshot, folder, port = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
if not (folder / "paths.json").is_file():
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / "metadata" / "0.arrow").symlink_to(snapshot / "images.arrow")
    index = faiss.read_index(str(snapshot / "images.faiss"))
    stamp = json.loads((snapshot / "manifest.json").read_text("utf-8"))["images"]["index"]
    index.hnsw.efSearch = stamp["parameters"]["efSearch"]
    faiss.write_index(index, str(folder / "image.index"))
    (folder / "paths.json").write_text(json.dumps({"index": str(folder)}), "utf-8")
clip_back(
    indices_paths=str(folder / "paths.json"),
    port=port,
    clip_model=f"open_clip:ViT-B-32/{model / 'open_clip_model.safetensors'}",
    columns_to_return=["id", "uri"],
    use_arrow=True,
    use_jit=False,  # open_clip has no traced ViT-B-32 without pretrained weights
    enable_mclip_option=False,
    provide_aesthetic_embeddings=False,
)
