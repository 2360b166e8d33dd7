"""What is deployed, before it is: every file passes its own tool, and each tool is shown to reject a bad one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BAD = HERE / "bad"
BIN = Path(sys.executable).parent
RULES = ROOT / "deploy/observability/prometheus"
CHART = ROOT / "deploy/kubernetes/crossmodal"
VALUES: dict[str, list[str]] = {
    "defaults": [],
    "everything": ["--values", str(HERE / "values/everything.yaml")],
    "fetched": ["--values", str(HERE / "values/fetched.yaml")],
    "stored": ["--values", str(HERE / "values/stored.yaml")],
    "ray": ["--values", str(HERE / "values/ray.yaml")],
}


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)


def good(*command: str | Path, cwd: Path | None = None) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bad(said: str, *command: str | Path) -> None:
    """The tool fails, and for this reason."""
    done = run(*command)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


# --- docker/ ----------------------------------------------------------------------------------------------------------


def test_dockerfiles() -> None:
    good(BIN / "hadolint", *ROOT.glob("docker/*.Dockerfile"), *HERE.glob("*.Dockerfile"))
    bad("DL3004", BIN / "hadolint", BAD / "Dockerfile")


@pytest.mark.parametrize(("lock", "extra"), [("cpu", "cpu"), ("gpu", "gpu")])
def test_locks_pin_what_the_project_asks_for(lock: str, extra: str) -> None:
    text = (ROOT / f"docker/requirements/{lock}.txt").read_text()
    assert "://" not in text  # no registry's address
    pinned = set(re.findall(r"^([a-z0-9_.-]+)==", text, re.MULTILINE))
    hashed = re.findall(r"^([a-z0-9_.-]+)==\S+(?: ;.*)? \\\n    --hash=sha256:", text, re.MULTILINE)
    assert pinned == set(hashed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"][extra]]
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-") for line in asked}  # type: ignore[index]
    assert names <= pinned, f"not in the lock: {sorted(names - pinned)}: run docker/lock.sh {lock}"


# --- deploy/compose ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compose(docker: str) -> Sequence[str]:
    return [docker, "compose"] if run(docker, "compose", "version").returncode == 0 else ["docker-compose"]


def test_compose_file(compose: Sequence[str]) -> None:
    text = good(
        *compose,
        "--profile",
        "green",
        "--profile",
        "index",
        "--profile",
        "haproxy",
        "config",
        cwd=ROOT / "deploy/compose",
    )
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        assert name == "grafana" or service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        for port in service.get("ports", []):
            assert "127.0.0.1" in str(port), f"{name} listens to the world"
        assert not any("privileged" in key for key in service)
    bad("read_onyl", *compose, "-f", BAD / "docker-compose.yml", "config")


def in_container(docker: str, image: str, file: Path, inside: str, *command: str) -> Sequence[str]:
    hosts = [
        part for name in ("replica", "green") for n in (1, 2, 3) for part in ("--add-host", f"{name}-{n}:127.0.0.1")
    ]
    return [docker, "run", "--rm", "--network", "none", *hosts, "-v", f"{file}:{inside}:ro", image, *command]


@pytest.mark.parametrize("colour", ["blue", "green"])
def test_nginx_configuration(docker: str, colour: str) -> None:
    upstream = ["-v", f"{ROOT}/deploy/compose/nginx/upstream/{colour}.conf:/tmp/upstream.conf:ro"]
    command = in_container(
        docker, "nginx:1.28-bookworm", ROOT / "deploy/compose/nginx/crossmodal.conf", "/etc/nginx/crossmodal.conf",
        "nginx", "-t", "-c", "/etc/nginx/crossmodal.conf",
    )  # fmt: skip
    good(*command[:5], *upstream, *command[5:])
    bad(
        "least_connections",
        *in_container(docker, "nginx:1.28-bookworm", BAD / "nginx.conf", "/bad.conf", "nginx", "-t", "-c", "/bad.conf"),
    )


def test_haproxy_configuration(docker: str) -> None:
    def check(file: Path) -> Sequence[str]:
        return in_container(docker, "haproxy:3.0-bookworm", file, "/haproxy.cfg", "haproxy", "-c", "-f", "/haproxy.cfg")

    good(*check(ROOT / "deploy/compose/haproxy/haproxy.cfg"))
    bad("httpcheck", *check(BAD / "haproxy.cfg"))


def test_limits_agree() -> None:
    """What the balancers let through, and how long they wait, fits what the service is told."""
    replica = yaml.safe_load((ROOT / "deploy/compose/docker-compose.yml").read_text())["x-replica"]
    body = int(replica["environment"]["CROSSMODAL_MAX_BODY_BYTES"])
    seconds = int(replica["environment"]["CROSSMODAL_REQUEST_TIMEOUT"])
    nginx = (ROOT / "deploy/compose/nginx/crossmodal.conf").read_text()
    haproxy = (ROOT / "deploy/compose/haproxy/haproxy.cfg").read_text()

    def number(pattern: str, text: str) -> int:
        return int(re.search(pattern, text)[1])  # type: ignore[index]

    assert number(r"client_max_body_size (\d+)m;", nginx) * 2**20 == body
    assert number(r"req\.body_size gt (\d+)", haproxy) == body
    assert seconds < number(r"proxy_read_timeout (\d+)s;", nginx) <= seconds + 5
    assert seconds < number(r"timeout server (\d+)s", haproxy) <= seconds + 5
    settings = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    assert settings == {name: replica["environment"][name] for name in settings}
    ingress = (CHART / "templates/ingress.yaml").read_text()
    assert seconds < number(r'proxy-read-timeout: "(\d+)"', ingress) <= seconds + 5


# --- deploy/observability ---------------------------------------------------------------------------------------------


def prometheus(docker: str, *command: str | Path) -> Sequence[str | Path]:
    mount = ["-v", f"{ROOT}:{ROOT}:ro", "-w", str(RULES)]
    return [
        docker,
        "run",
        "--rm",
        "--network",
        "none",
        *mount,
        "--entrypoint",
        "promtool",
        "prom/prometheus:v2.55.1",
        *command,
    ]


def test_rules(docker: str) -> None:
    good(*prometheus(docker, "check", "config", "prometheus.yml"))
    good(*prometheus(docker, "test", "rules", "tests.yml"))
    bad("unclosed left parenthesis", *prometheus(docker, "check", "rules", BAD / "rules.yml"))
    bad("FAILED", *prometheus(docker, "test", "rules", BAD / "rules-tests.yml"))


def test_scraping_in_a_cluster(docker: str, tmp_path: Path) -> None:
    """Debian's Prometheus cannot discover pods: all but that is checked. The pods carry what is looked for."""
    config = yaml.safe_load((RULES / "kubernetes.yml").read_text())
    [job] = config["scrape_configs"]
    assert job["job_name"] == "crossmodal"  # as alerts and dashboard say
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump({**config, "scrape_configs": [{**job, "static_configs": [{"targets": ["x:1"]}]}]}))
    file.chmod(0o644)
    command = in_container(docker, "prom/prometheus:v2.55.1", file, "/p.yml", "check", "config", "/p.yml")
    good(*command[:-4], "--entrypoint", "promtool", *command[-4:])
    kept = {part["target_label"] for part in job["relabel_configs"] if "target_label" in part}
    assert {"replica", "colour", "namespace", "pod"} == kept


def test_every_alert_is_tested_and_has_its_runbook() -> None:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    fired = {
        case["alertname"]
        for test in yaml.safe_load((RULES / "tests.yml").read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert fired == set(alerts)
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    for name, rule in alerts.items():
        assert name in headings
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"


# --- deploy/kubernetes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return good(HERE / "tools.sh", Path.home() / ".cache/crossmodal-tests").splitlines()[-1]


@pytest.fixture(params=VALUES, scope="session")
def rendered(request: pytest.FixtureRequest, helm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = VALUES[request.param]
    good(helm, "lint", "--strict", CHART, *values)
    file = tmp_path_factory.mktemp("rendered") / f"{request.param}.yaml"
    file.write_text(good(helm, "template", "crossmodal", CHART, "--namespace", "search", *values))
    return file


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0"])
def test_chart_is_valid(rendered: Path, version: str) -> None:
    # Without --strict a misspelt probe passes.
    good(BIN / "kubernetes-validate", "--strict", "--kubernetes-version", version, rendered)


def test_validator_rejects_a_misspelt_probe() -> None:
    bad("readynessProbe", BIN / "kubernetes-validate", "--strict", BAD / "deployment.yaml")


def test_chart_says_what_the_service_means(rendered: Path) -> None:
    parts: list[dict[str, Any]] = [part for part in yaml.safe_load_all(rendered.read_text()) if part]
    [deployment] = [part for part in parts if part["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
    told = {each["name"]: each["value"] for each in container["env"]}
    announced, finished = float(told["CROSSMODAL_DRAIN_DELAY"]), float(told["CROSSMODAL_DRAIN_TIMEOUT"])
    assert announced >= 5
    assert pod["terminationGracePeriodSeconds"] >= announced + finished + 10
    stored = "CROSSMODAL_STORE" in told
    assert [mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] == "index"] == [True] * (
        not stored
    )
    assert ("/index" in container["args"], any(v["name"] == "index" for v in pod["volumes"])) == (
        not stored,
        not stored,
    )
    exposed = {
        path["path"]
        for part in parts
        if part["kind"] == "Ingress"
        for rule in part["spec"]["rules"]
        for path in rule["http"]["paths"]
        if path["pathType"] == "Prefix" or path["path"] != "/"
    }
    assert not any(
        private.startswith(tuple(exposed - {"/v1/index"})) for private in ("/metrics", "/v1/index/reload", "/readyz")
    )


REFUSED = {
    "index.from=fetch,job.enabled=true,network.enabled=false": "job.enabled needs index.from=claim or store",
    "index.from=fetch": "index.from=fetch needs network.to",
    "index.from=store,network.enabled=false": "index.from=store needs index.store",
    "index.from=store,index.store=milvus://db/photos": "index.from=store needs network.to",
    "index.from=clame": "index.from=clame is none of",
    "mounts[0].claim=models": "mounts: mountPath",
}


@pytest.mark.parametrize("values", REFUSED)
def test_what_cannot_work_is_refused(helm: str, values: str) -> None:
    bad(REFUSED[values], helm, "template", "x", CHART, "--set", values)


def pods(parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod templates of a rendered chart, by what they are of."""
    found = {}
    for part in parts:
        if part["kind"] in ("Deployment", "Job"):
            found[part["kind"]] = part["spec"]["template"]
        if part["kind"] == "RayJob":
            cluster = part["spec"]["rayClusterSpec"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                found[group.get("groupName", "head")] = group["template"]
    return found


def test_every_pod_is_restricted_and_finds_its_image_and_files(rendered: Path) -> None:
    """What Pod Security's profile `restricted` asks; and what the values give to the replicas, the job's pods have too."""
    parts = [part for part in yaml.safe_load_all(rendered.read_text()) if part]
    policies = [p["spec"]["podSelector"]["matchLabels"].items() for p in parts if p["kind"] == "NetworkPolicy"]
    templates = pods(parts)
    more = [mount["mountPath"] for mount in templates["Deployment"]["spec"]["containers"][0]["volumeMounts"]
            if mount["name"].startswith("more-")]  # fmt: skip
    for name, template in templates.items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all({"emptyDir", "persistentVolumeClaim", "secret"} & set(volume) for volume in pod["volumes"])
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"]["memory"]
        mounted = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
        assert set(more) <= set(mounted), name
        assert pod.get("imagePullSecrets") == templates["Deployment"]["spec"].get("imagePullSecrets"), name
        assert not policies or any(wanted <= template["metadata"]["labels"].items() for wanted in policies), name


def test_job_publishes_to_the_store(helm: str) -> None:
    for more in ([], ["--set", "job.ray.enabled=true"]):
        text = good(helm, "template", "crossmodal", CHART, *VALUES["stored"], *more)
        parts = [part for part in yaml.safe_load_all(text) if part]
        [job] = [part["spec"] for part in parts if part["kind"] in ("Job", "RayJob")]
        group = job["rayClusterSpec"]["headGroupSpec"] if more else job
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "CROSSMODAL_STORE", "value": "milvus://milvus.milvus.svc:19530/photos"} in container["env"]
        assert container["envFrom"] == [{"secretRef": {"name": "crossmodal"}}]
        [claim] = [part for part in parts if part["kind"] == "PersistentVolumeClaim"]
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_ray_job(helm: str, tmp_path: Path) -> None:
    """Kubernetes knows no RayJob, but it knows the pods in it; and the line that KubeRay runs is the command meant."""
    text = good(helm, "template", "crossmodal", CHART, "--namespace", "search", *VALUES["ray"])
    parts = [part for part in yaml.safe_load_all(text) if part]
    [job] = [part for part in parts if part["kind"] == "RayJob"]
    assert not any(part["kind"] == "Job" for part in parts)
    command = "index build|/corpus/it's a table.jsonl|--out /index --model|tiny|--engine ray|--index-type|HNSW32,SQfp16"
    words = [word for some in command.split("|") for word in ([some] if "'" in some else some.split())]
    assert shlex.split(job["spec"]["entrypoint"]) == ["crossmodal", *words]
    cluster = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert workers["replicas"] == 3
    [policy] = [p for p in parts if p["kind"] == "NetworkPolicy" and p["metadata"]["name"].endswith("-index")]
    file = tmp_path / "pods.yaml"
    pods = []
    for name, group in (("head", cluster["headGroupSpec"]), ("worker", workers)):
        template = group["template"]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        pods.append({"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}})
    file.write_text(yaml.safe_dump_all(pods))
    good(BIN / "kubernetes-validate", "--strict", "--kubernetes-version", "1.34.0", file)


@pytest.fixture(scope="session")
def checkov(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    venv = Path.home() / ".cache/crossmodal-tests/checkov"  # of its own: it pins half the world
    if not (venv / "bin/checkov").exists():
        good(sys.executable, "-m", "venv", venv)
        good(venv / "bin/pip", "install", "--quiet", "checkov==3.3.30")
    skipped = [
        "CKV_K8S_11",  # limits of CPU: throttling an encoder only makes it late
        "CKV_K8S_15",  # always pulling: a registry that is away would stop every restart
        "CKV_K8S_35",  # secrets as files: settings are variables
        "CKV_K8S_43",  # digests: image.digest, the operator's
    ]
    command = ["--framework", "kubernetes", "--compact", "--quiet", "--skip-check", ",".join(skipped)]

    def check(file: Path) -> subprocess.CompletedProcess[str]:
        lacking = ",CKV2_K8S_6" if file.stem == "fetched" else ""  # these values leave out the network's policy
        return run(venv / "bin/checkov", *command[:-1], command[-1] + lacking, "--file", file)

    return check


def test_policies(checkov: Callable[[Path], subprocess.CompletedProcess[str]], rendered: Path) -> None:
    done = checkov(rendered)
    assert done.returncode == 0, done.stdout + done.stderr


def test_policies_reject_a_careless_deployment(checkov: Callable[[Path], subprocess.CompletedProcess[str]]) -> None:
    done = checkov(BAD / "deployment.yaml")
    assert done.returncode == 1
    assert "CKV_K8S_20" in done.stdout  # privilege escalation is not forbidden
    assert "CKV_K8S_22" in done.stdout  # the root file system can be written


def test_dashboard_is_provisioned() -> None:
    grafana = ROOT / "deploy/observability/grafana"
    dashboard = json.loads((grafana / "dashboards/crossmodal.json").read_text())
    [source] = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    [provider] = yaml.safe_load((grafana / "provisioning/dashboards/crossmodal.yml").read_text())["providers"]
    volumes = yaml.safe_load((ROOT / "deploy/compose/docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in volumes)
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len({(x, y) for x, y, _, _ in places}) == len(places)
