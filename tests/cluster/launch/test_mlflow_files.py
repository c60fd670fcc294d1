"""The files of the MLflow server: keys that Docker Compose and Kubernetes know, and a server that MLflow starts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import mlflow.cli
import pytest
from jsonschema import Draft202012Validator
from launch_files import LAUNCH, ROOT, document, documents, header
from mlflow.server.auth.config import read_auth_config
from mlflow.server.security_utils import is_allowed_host_header

FOLDER = LAUNCH / "mlflow"
COMPOSE = "mlflow/compose.yaml"
KUBERNETES = "mlflow/kubernetes.yaml"
CONDITION = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
NEEDS = {"additionalProperties": {"required": ["condition"], "properties": {"condition": CONDITION}}}
SERVICE = {
    "additionalProperties": False,
    "required": ["restart"],
    "oneOf": [{"required": ["image"]}, {"required": ["build"]}],
    "properties": {
        "image": {"type": "string"},
        "init": {"type": "boolean"},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "depends_on": {"type": ["array", "object"], **NEEDS},
        **{name: {"type": "array"} for name in ("command", "ports", "volumes")},
        **{name: {"type": "object"} for name in ("build", "environment", "healthcheck")},
    },
}
"""What of the Compose specification the file uses."""
SECRETS = ("PASSWORD", "SECRET")
RAY_UP = ("aws.yaml", "gcp.yaml", "onprem.yaml")
"""Files that send the repository to each node."""


def compose_mistakes(file: dict[str, Any]) -> list[str]:
    services = file["services"]
    found = [f"unknown: {key}" for key in set(file) - {"name", "services", "volumes"}]
    for name, service in services.items():
        found += [f"{name}: {error.message}" for error in Draft202012Validator(SERVICE).iter_errors(service)]
        needs = service.get("depends_on", [])
        found += [f"{name} needs {each}, which is not there" for each in needs if each not in services]
        healthy = [each for each in needs if isinstance(needs, dict) and needs[each]["condition"] == "service_healthy"]
        found += [f"{each} has no health check" for each in healthy if "healthcheck" not in services.get(each, {})]
        volumes = [each.split(":")[0] for each in service.get("volumes", [])]
        found += [f"{name}: no volume {each}" for each in volumes if each not in file["volumes"]]
    return found


def compose() -> dict[str, Any]:
    (file,) = documents(COMPOSE)
    return file


def test_compose_would_take_the_file():
    assert compose_mistakes(compose()) == []
    build = compose()["services"]["server"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    ports = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert ports == {"server": ["${LISTEN:-127.0.0.1}:5000:5000"]}, "on loopback unless it is asked otherwise"


def test_mistakes_in_compose_are_seen():
    wrong = compose()
    server, database = (wrong["services"][name] for name in ("server", "database"))
    server["enviroment"] = server.pop("environment")
    server["depends_on"] |= {"databse": {"condition": "service_started"}, "bucket": {"condition": "service_completed"}}
    del database["healthcheck"], wrong["volumes"]["objects"]
    assert len(compose_mistakes(wrong)) == 5


def test_no_secret_is_in_the_files():
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in SECRETS):
                assert re.fullmatch(r"\$\{[A-Z]+_SECRET:\?.*\}", value), name
    for kind in ("Deployment", "StatefulSet"):
        for variable in document_of(kind)["spec"]["template"]["spec"]["containers"][0]["env"]:
            if any(word in variable["name"] for word in (*SECRETS, "ACCESS_KEY")):
                assert "secretKeyRef" in variable["valueFrom"], variable


def test_the_file_of_passwords_goes_to_no_node_into_no_image_and_into_no_commit():
    (file,) = set(re.findall(r"[\w.]+\.env\b", "\n".join(header(LAUNCH / COMPOSE))))
    left_out = {each: each.read_text().splitlines() for each in (ROOT / ".gitignore", *LAUNCH.rglob("*.dockerignore"))}
    left_out |= {each: documents(each.name)[0]["rsync_exclude"] for each in map(LAUNCH.joinpath, RAY_UP)}
    assert len(left_out) == 6
    assert [path for path, names in left_out.items() if file not in names] == []


def document_of(kind: str) -> dict[str, Any]:
    return document(KUBERNETES, kind)


def test_kubernetes_takes_each_document():
    for each in documents(KUBERNETES):
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    assert len(documents(KUBERNETES)) == 4


def test_each_service_finds_its_pods_and_stays_inside_the_cluster():
    pods = [document_of(kind)["spec"]["template"]["metadata"]["labels"] for kind in ("Deployment", "StatefulSet")]
    services = [each for each in documents(KUBERNETES) if each["kind"] == "Service"]
    assert sorted(each["spec"]["selector"]["app"] for each in services) == sorted(each["app"] for each in pods)
    assert all(each["spec"].get("type", "ClusterIP") == "ClusterIP" for each in services)
    # The service is called mlflow, so Kubernetes would set MLFLOW_PORT, which `mlflow server` reads.
    assert document_of("Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def needed() -> set[str]:
    """The variables without which the script does not start."""
    return set(re.findall(r"\$\{(\w+):\?\}", (FOLDER / "serve.sh").read_text()))


def compose_hosts() -> str:
    value = compose()["services"]["server"]["environment"]["ALLOWED_HOSTS"]
    match = re.fullmatch(r"\$\{ALLOWED_HOSTS:-(.*)\}", value)
    assert match is not None
    return match[1]


def test_mlflow_takes_the_arguments_and_the_environment_and_no_argument_holds_a_password(tmp_path, monkeypatch):
    (tmp_path / "mlflow").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/words\nenv > {tmp_path}/env\n")
    (tmp_path / "mlflow").chmod(0o755)
    environment = dict.fromkeys(needed(), "x") | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    environment |= {"DATABASE_PASSWORD": "pw0", "ARTIFACTS": "s3://b/a", "ALLOWED_HOSTS": compose_hosts()}
    subprocess.run([FOLDER / "serve.sh"], env=environment, check=True)
    command, *words = (tmp_path / "words").read_text().splitlines()
    given = mlflow.cli.server.make_context("server", list(words)).params
    assert (command, given["app_name"], given["port"]) == ("server", "basic-auth", 5000)
    assert given["artifacts_destination"] == "s3://b/a"
    assert "pw0" not in " ".join(words)
    started = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert started["MLFLOW_BACKEND_STORE_URI"] == "postgresql://mlflow:pw0@x:5432/mlflow"
    option = next(each for each in mlflow.cli.server.params if each.name == "backend_store_uri")
    assert option.envvar == "MLFLOW_BACKEND_STORE_URI"
    # Where its users are.
    assert Path(started["MLFLOW_AUTH_CONFIG_PATH"]).stat().st_mode & 0o077 == 0
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        monkeypatch.setenv(name, started[name])
    config = read_auth_config()
    assert config.database_uri == started["MLFLOW_BACKEND_STORE_URI"]
    assert (config.admin_username, config.admin_password) == ("admin", "x")


@pytest.mark.parametrize("name", sorted(needed()))
def test_the_script_does_not_start_without(name, tmp_path):
    environment = dict.fromkeys(needed() - {name}, "x") | {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    done = subprocess.run([FOLDER / "serve.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert name in done.stderr


def test_both_files_give_the_server_all_that_it_needs_and_it_answers_to_the_names_by_which_it_is_called():
    pod = document_of("Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert needed() >= {"DATABASE_PASSWORD", "ALLOWED_HOSTS"}
    assert needed() <= set(compose()["services"]["server"]["environment"])
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", *needed()} <= {each["name"] for each in pod}
    assert is_allowed_host_header(compose_hosts().split(","), "127.0.0.1:5000")
    assert not is_allowed_host_header(compose_hosts().split(","), "evil.example.com")
    hosts = next(each["value"] for each in pod if each["name"] == "ALLOWED_HOSTS").split(",")
    assert is_allowed_host_header(hosts, "mlflow:5000")
    assert is_allowed_host_header(hosts, "127.0.0.1:5000")
