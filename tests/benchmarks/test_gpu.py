"""Without a GPU nothing is said to have been measured; a tower's operations are counted as torch counts them."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit, match=r"^there is no GPU here, or no driver for it: nothing is measured$"):
        gpu.main()


def test_operations(tmp_path: Path) -> None:
    vision = {"image_size": 64, "layers": 3, "width": 128, "patch_size": 8, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 1, "layers": 1}
    (tmp_path / "counted.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("counted").eval()
    # As plain products: torch does not count the fused kinds of attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.encode_image(torch.zeros(1, 3, 64, 64))
    assert gpu._operations(vision) == pytest.approx(counter.get_total_flops(), rel=0.001)
