"""How good a dual encoder is: retrieval, zero-shot classification, hard-negative probes, and one model against another.

figures = evaluate(load_encoder("tiny"), Path("runs/test"))
figures["text_to_image"]["recall@1"], figures["intervals"]["text_to_image"]["recall@1"]
"""

from __future__ import annotations

from training.evaluation.retrieval import evaluate, retrieval_metrics

__all__ = ["evaluate", "retrieval_metrics"]
