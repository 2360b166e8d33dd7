"""What an operator can set: environment variables with the prefix CROSSMODAL_, or arguments of `crossmodal serve`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read when constructed, never at import."""

    model_config = SettingsConfigDict(env_prefix="CROSSMODAL_", protected_namespaces=(), extra="ignore")

    index: Path
    model: str | None = Field(None, description="model reference; the snapshot's own when not given")
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    workers: int = Field(1, gt=0, description="processes that share this machine's cores")
    cache_bytes: int = Field(32 * 2**20, ge=0, description="of remembered vectors, of texts and of pictures each")
    corpus_root: str | None = Field(None, description="folder or address where the corpus lies now, if it has moved")
    image_url_hosts: list[str] = Field([], description="hosts that images of queries may be fetched from; none: off")
    max_body_bytes: int = Field(20 * 2**20, gt=0)
    max_pixels: int = Field(100_000_000, gt=0)
    max_k: int = Field(10_000, gt=0)
    max_queries: int = Field(64, gt=0)
    request_timeout: float = Field(30.0, gt=0, description="seconds until a request is given up with 503")
    body_timeout: float = Field(10.0, gt=0, description="seconds in which a head, and then its body, must have come")
    queue_seconds: float = Field(2.0, gt=0, description="of work that may wait; beyond it, 503 at once")
    bytes_in_flight: int = Field(512 * 2**20, gt=0, description="of all bodies being read or answered; beyond it, 503")
    max_connections: int = Field(4096, gt=0, description="beyond it, the one idle longest is closed")
    decoder_processes: int | None = Field(None, ge=0, description="that decode pictures; cores when not given, 0: none")
    decode_timeout: float = Field(10.0, gt=0, description="seconds a picture may decode")
    stall_timeout: float = Field(30.0, gt=0, description="seconds one batch may encode before readiness fails")
    exit_timeout: float = Field(120.0, gt=0, description="seconds it may do so before the process ends itself")
    drain_delay: float = Field(0.0, ge=0, description="seconds to serve on, not ready, once told to stop")
    drain_timeout: float = Field(30.0, gt=0, description="seconds that what is being answered then has")
