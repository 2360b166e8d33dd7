"""What an operator can set: environment variables with the prefix CROSSMODAL_, or arguments of `crossmodal serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, IPvAnyNetwork, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from service.logs import Form, Level


class Settings(BaseSettings):
    """Read when constructed, never at import. Raises ValueError, a line that names the variables."""

    model_config = SettingsConfigDict(
        env_prefix="CROSSMODAL_", protected_namespaces=(), extra="ignore", env_ignore_empty=True
    )

    index: Path | None = Field(None, description="the index directory")
    store: str | None = Field(None, description="where the index lies instead: milvus://HOST:PORT/NAME")
    store_token: str | None = Field(None, repr=False, description="of the store: user:password, or an API key")
    store_timeout: float = Field(5.0, gt=0, description="seconds that a call of the store may take")
    model: str | None = Field(None, description="model reference; the snapshot's own when not given")
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    workers: int = Field(1, gt=0, description="processes that share this machine's cores")
    watch_seconds: float = Field(5.0, ge=0, description="between looks for a new snapshot; 0: only when told to reload")
    verify: bool = Field(True, description="read snapshot and model through, against their SHA-256s, before they serve")
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
    trusted_proxies: list[IPvAnyNetwork] = Field(
        [], description="addresses or ranges whose X-Forwarded-For is believed"
    )
    log_format: Form = Field("auto", description="json or console; auto: console where stderr is a terminal")
    log_level: Level = "info"
    access_log: bool = Field(False, description="a line of log for each request")
    log_queries: bool = Field(False, description="with query strings and the beginnings of JSON bodies in it")
    traces: bool = Field(False, description="OpenTelemetry's, as OTEL_… variables say")
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

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)  # which may be a secret
            places = [(str(each["loc"][0]).upper(), *map(str, each["loc"][1:])) for each in found]
            said = (f"CROSSMODAL_{': '.join(at)}: {each['msg']}" for at, each in zip(places, found, strict=True))
            raise ValueError("; ".join(said)) from None
        except SettingsError as error:
            name = str(error).split('"')[1].upper()
            raise ValueError(f"CROSSMODAL_{name}: not JSON: {error.__cause__}") from None
