"""The project deployed with a real engine: images built, replicas behind a balancer, load on them, things broken.

`make test-deploy` runs this folder; `make test` does not enter it. It needs root (to start an engine) and package
registries, for Debian's packages and PyPI's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dual_encoder.record import read_record, write_record

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FRONT = "http://127.0.0.1:18080"
HAPROXY = "http://127.0.0.1:18081"
PROMETHEUS = "http://127.0.0.1:19090"


def sh(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 600) -> str:
    """Run to the end; what it printed on stdout. A failure shows both streams."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})}, cwd=cwd, timeout=timeout, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout.strip()


def wait_for(what: str, true: Callable[[], Any], seconds: float, every: float = 0.2) -> float:
    """Seconds until `true()` was; it may raise OSError meanwhile."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            if true():
                return time.monotonic() - began
        except OSError:
            pass
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def fetch(url: str, body: object = None) -> Any:
    """The JSON that answers a GET, or a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker() -> str:
    """A client whose engine answers, with the base images there or stood in for."""
    client = sh(HERE / "engine.sh").splitlines()[-1]
    sh(HERE / "standins.sh", client)
    return client


@dataclass
class Builder:
    docker: str
    context: Path

    def build(self, tag: str, dockerfile: str = "serve", target: str | None = None, **arguments: str) -> float:
        """Seconds it took. What pip is told on this host is passed on, as build arguments."""
        for name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
            if value := os.environ.get(name) or self._pip_setting(name):
                arguments.setdefault(name, value)
        options = [part for pair in arguments.items() for part in ("--build-arg", "=".join(pair))]
        if target:
            options += ["--target", target]
        began = time.monotonic()
        sh(
            self.docker, "build", "--network", "host", "--tag", tag, "--file", f"docker/{dockerfile}.Dockerfile",
            *options, ".", cwd=self.context, env={"DOCKER_BUILDKIT": "1"},
        )  # fmt: skip
        return time.monotonic() - began

    def _pip_setting(self, name: str) -> str:
        if not name.startswith("PIP_"):
            return ""
        option = "global." + name.removeprefix("PIP_").lower().replace("_", "-")
        done = subprocess.run([sys.executable, "-m", "pip", "config", "get", option], capture_output=True, text=True)
        value = done.stdout.strip()
        return "" if value.startswith(("file:", "/")) else value  # a folder of this host: nothing a build can see


@pytest.fixture(scope="session")
def builder(docker: str, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Builds from a copy of the sources, which a test may change."""
    context = tmp_path_factory.mktemp("context")
    folders = [line[1:].strip() for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in {folder.split("/")[0] for folder in folders}:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    shutil.copy(ROOT / ".dockerignore", context)
    return Builder(docker, context)


@pytest.fixture(scope="session")
def images(builder: Builder) -> tuple[str, str]:
    """The serving image and the indexer's."""
    serve, indexer = "crossmodal:test", "crossmodal-indexer:test"
    print(f"\nbuilt in {builder.build(serve, REVISION='one'):.1f} s")
    builder.build(indexer, target="indexer", REVISION="one")
    return serve, indexer


# --- the stack --------------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """deploy/compose, from a copy of its own."""

    docker: str
    folder: Path
    env: dict[str, str]
    front: str = FRONT
    haproxy: str = HAPROXY
    prometheus: str = PROMETHEUS

    def compose(self, *arguments: str) -> str:
        plugin = subprocess.run([self.docker, "compose", "version"], capture_output=True).returncode == 0
        return sh(
            *([self.docker, "compose"] if plugin else ["docker-compose"]), *arguments, cwd=self.folder, env=self.env
        )

    def script(self, name: str, *arguments: str, **env: str) -> str:
        return sh(self.folder / name, *arguments, cwd=self.folder, env={**self.env, **env})

    def container(self, service: str) -> str:
        label = "label=com.docker.compose"
        project = self.env["COMPOSE_PROJECT_NAME"]
        return sh(
            self.docker, "ps", "--all", "--quiet", "--filter", f"{label}.project={project}",
            "--filter", f"{label}.service={service}", "--filter", f"{label}.oneoff=False",
        )  # fmt: skip

    def inspect(self, service: str, what: str) -> str:
        return sh(self.docker, "inspect", "--format", f"{{{{{what}}}}}", self.container(service))

    def healthy(self, service: str) -> bool:
        return self.inspect(service, ".State.Health.Status") == "healthy"

    def served(self, service: str) -> float:
        """Searches that a replica has answered since it started."""
        metrics = self.ask(service, "/metrics")
        return sum(
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("crossmodal_requests_total{") and "/v1/search" in line
        )

    def ask(self, service: str, path: str) -> str:
        """A GET from inside: the replicas' network is closed."""
        code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000{path}', timeout=5).read().decode())"
        return sh(self.docker, "exec", self.container(service), "/opt/venv/bin/python", "-I", "-c", code)


REPLICAS = ("replica-1", "replica-2", "replica-3")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions, as two tables: the second has more of them."""
    folder = tmp_path_factory.mktemp("corpus")
    sh(Path(sys.executable).parent / "crossmodal", "data", "scenes", "--out", folder, "--count", "240", "--seed", "7")
    lines = (folder / "captions.jsonl").read_text().splitlines(keepends=True)
    (folder / "first.jsonl").write_text("".join(lines[:160]))
    sh("chmod", "-R", "a+rX", folder, folder.parent)
    return folder


@pytest.fixture(scope="session")
def stack(
    docker: str, images: tuple[str, str], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Three replicas with a first snapshot, nginx and Prometheus, up."""
    folder = tmp_path_factory.mktemp("stack")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    # Another model, as far as its fingerprint goes: an index of the one is refused by the other.
    other = folder / "models/other"
    shutil.copytree(ROOT / "dual_encoder/tiny", other)
    facts = read_record(other / "model.json")
    write_record(other / "model.json", {**facts, "fingerprint": facts["fingerprint"][::-1]})
    sh("chmod", "-R", "a+rX", folder, folder.parent)
    env = {
        "DOCKER": docker,
        "COMPOSE_PROJECT_NAME": "crossmodal-test",
        "COMPOSE_HTTP_TIMEOUT": "300",  # of compose v1: an engine that removes a container waits for the disk
        "CROSSMODAL_IMAGE": images[0],
        "CROSSMODAL_GREEN_IMAGE": images[0],
        "CROSSMODAL_INDEXER_IMAGE": images[1],
        "CROSSMODAL_CORPUS": str(corpus),
        "CROSSMODAL_MODELS": str(other.parent),
        "CROSSMODAL_SOURCE": "/corpus/first.jsonl",
        "CROSSMODAL_SUBNET": "10.177.0",
        "CROSSMODAL_PUBLISH": FRONT.removeprefix("http://"),
        "HAPROXY_PUBLISH": HAPROXY.removeprefix("http://"),
        "PROMETHEUS_PUBLISH": PROMETHEUS.removeprefix("http://"),
    }
    stack = Stack(docker, folder / "deploy/compose", env)
    down = ("--profile", "green", "--profile", "haproxy", "--profile", "index", "down", "--volumes", "--timeout", "5")
    stack.compose(*down)
    try:
        stack.compose("--profile", "index", "run", "--rm", "index")
        began = time.monotonic()
        try:
            stack.compose("up", "-d", *REPLICAS, "nginx", "prometheus")
        except AssertionError as error:
            pytest.exit(f"{error}\n{stack.compose('logs', '--tail', '30', *REPLICAS)}", returncode=1)
        wait_for("nginx", lambda: fetch(f"{FRONT}/v1/search/images?text=a+star")["hits"], 30)
        print(f"\nup in {time.monotonic() - began:.1f} s")
        yield stack
    finally:
        if not os.environ.get("KEEP_STACK"):
            stack.compose(*down)


# --- load -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    ended: float
    method: str
    status: int
    seconds: float
    snapshot: str
    error: str

    @property
    def began(self) -> float:
        return self.ended - self.seconds


class Traffic:
    """Constant load by locust from entering to leaving; `requests` are there afterwards.

    With `again` a POST is sent once more if its connection, which it found open, is closed without a word, as GETs are
    by the client itself.
    """

    def __init__(self, host: str, users: int, log: Path, again: bool) -> None:
        self._retries = "1" if again else "0"
        self._command = [
            Path(sys.executable).parent / "locust", "--locustfile", HERE / "traffic.py", "--headless", "--only-summary",
            "--users", str(users), "--spawn-rate", "100", "--host", host, "--run-time", "5m", "--stop-timeout", "40",
        ]  # fmt: skip
        self._log = log
        self.requests: list[Request] = []

    def __enter__(self) -> Traffic:
        self._log.unlink(missing_ok=True)  # of the load before
        environment = {**os.environ, "TRAFFIC_LOG": str(self._log), "TRAFFIC_RETRIES": self._retries}
        self._process = subprocess.Popen(
            [str(part) for part in self._command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        wait_for("load", lambda: self._log.exists() and self._log.read_text().count("\n") > 50, 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        output, _rest = self._process.communicate(timeout=60)
        for line in self._log.read_text().splitlines():
            ended, method, status, seconds, snapshot, error = line.split("\t", 5)
            self.requests.append(Request(float(ended), method, int(status), float(seconds), snapshot, error))
        for method in ("GET", "POST"):
            sent = [r for r in self.requests if r.method == method]
            assert len(sent) > 50, f"hardly any load: {output.decode()[-2000:]}"
            slowest, bad = max(r.seconds for r in sent), sum(r.status != 200 for r in sent)
            print(f"  {method}: {len(sent)} sent, {bad} failed, slowest {slowest:.2f} s")

    def failed(self, since: float = 0.0, until: float = float("inf")) -> list[Request]:
        """What was sent within a time and got no good answer."""
        return [r for r in self.requests if r.status != 200 and since <= r.began < until]

    def sent(self, since: float, until: float) -> list[Request]:
        return [r for r in self.requests if since <= r.began < until]


@pytest.fixture
def traffic(tmp_path: Path) -> Callable[..., Traffic]:
    return lambda host=FRONT, users=20, again=False: Traffic(host, users, tmp_path / "traffic.log", again)
