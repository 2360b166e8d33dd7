"""What an operator can set: environment variables with the prefix CROSSMODAL_, or arguments of `crossmodal serve`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, IPvAnyNetwork
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read when constructed, never at import."""

    model_config = SettingsConfigDict(
        env_prefix="CROSSMODAL_", protected_namespaces=(), extra="ignore", env_ignore_empty=True
    )

    index: Path
    model: str | None = Field(None, description="model reference; the snapshot's own when not given")
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    workers: int = Field(1, gt=0, description="processes that share this machine's cores")
    watch_seconds: float = Field(5.0, ge=0, description="between looks for a new snapshot; 0: only when told to reload")
    verify: bool = Field(True, description="read a snapshot through, against its SHA-256s, before it serves")
    cache_bytes: int = Field(32 * 2**20, ge=0, description="of remembered vectors, of texts and of pictures each")
    corpus_root: str | None = Field(None, description="folder or address where the corpus lies now, if it has moved")
    image_url_hosts: list[str] = Field([], description="host or host:port to fetch pictures of queries from; none: off")
    image_url_http: bool = Field(False, description="fetch from them by http: too")
    image_url_networks: list[IPvAnyNetwork] = Field(
        [], description="ranges that are not public but may be fetched from"
    )
    image_url_seconds: float = Field(10.0, gt=0, description="for one picture, from its name to its last byte")
    keys_file: Path | None = Field(None, description="of `crossmodal keys`: whoever calls needs one of its keys")
    jwt_jwks_url: str | None = Field(None, description="where an issuer of JSON Web Tokens publishes its keys")
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    insecure: bool = Field(False, description="listen beyond this machine though nobody needs a key")
    metrics_open: bool = Field(False, description="/metrics without a key, for a Prometheus on a network of its own")
    rate_limit: str | None = Field(None, description="of each key, or each address where no key is needed: 100/second")
    redis_url: str | None = Field(None, description="where replicas count together; else each process for itself")
    cors_origins: list[str] = Field([], description="web sites whose scripts may call; none: the page's own alone")
    trusted_proxies: list[str] = Field([], description="addresses or ranges whose X-Forwarded-For is believed")
    max_body_bytes: int = Field(20 * 2**20, gt=0)
    max_pixels: int = Field(100_000_000, gt=0)
    max_k: int = Field(10_000, gt=0)
    max_queries: int = Field(64, gt=0)
    request_timeout: float = Field(30.0, gt=0, description="seconds until a request is given up with 503")
    stall_timeout: float = Field(30.0, gt=0, description="seconds one batch may encode before readiness fails")
