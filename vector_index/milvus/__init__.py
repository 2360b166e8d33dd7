"""Snapshots in a Milvus cluster, or in Milvus Lite, which is the same API in a file: `MilvusStore` is the way in."""

from vector_index.milvus.loading import INDEX_TYPES
from vector_index.milvus.store import MilvusStore

__all__ = ["INDEX_TYPES", "MilvusStore"]
