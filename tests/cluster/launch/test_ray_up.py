"""The files of `ray up` hold against Ray's own check, and their cloud parts against the clouds' own models."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import googleapiclient
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from launch_files import LAUNCH, ROOT
from ray.autoscaler._private.util import prepare_config, validate_config

NAMES = ("aws", "gcp", "onprem")
CLOUDS = ("aws", "gcp")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    found = prepare_config(config)
    validate_config(found)
    return found


@cache
def provider_keys() -> frozenset[str]:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return frozenset(schema["properties"]["provider"]["properties"])


def aws_mistakes(node_config: dict[str, Any]) -> str:
    """What EC2 would say of a node_config, by botocore's model of RunInstances; it checks no enumeration."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node_config, "MinCount": 1, "MaxCount": 1}, shape)
    return report.generate_report() + "".join(_unknown_words(node_config, shape))


def _unknown_words(value: Any, shape: Any) -> list[str]:
    if shape.type_name == "structure":
        members = [(value[key], member) for key, member in shape.members.items() if key in value]
        return [word for part, member in members for word in _unknown_words(part, member)]
    if shape.type_name == "list":
        return [word for part in value for word in _unknown_words(part, shape.member)]
    choices = getattr(shape, "enum", [])
    # InstanceType is a list that grows faster than the library.
    return [f"{value} is none of {shape.name}"] if choices and value not in choices else []


@cache
def gcp_schemas() -> dict[str, Any]:
    file = Path(googleapiclient.__file__).parent / "discovery_cache/documents/compute.v1.json"
    return json.loads(file.read_text())["schemas"]


def gcp_mistakes(value: Any, schema: dict[str, Any], where: str = "node_config") -> list[str]:
    """What Compute Engine would say, by the discovery document that comes with Google's library."""
    schema = gcp_schemas()[schema["$ref"]] if "$ref" in schema else schema
    if "properties" in schema:
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no mapping"]
        unknown = [f"{where}.{key}: unknown" for key in value if key not in schema["properties"]]
        known = [(key, part) for key, part in value.items() if key in schema["properties"]]
        parts = [gcp_mistakes(part, schema["properties"][key], f"{where}.{key}") for key, part in known]
        return unknown + [mistake for part in parts for mistake in part]
    if schema.get("type") == "array":
        return [mistake for part in value for mistake in gcp_mistakes(part, schema["items"], where)]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    kinds: dict[str, Any] = {"boolean": bool, "string": (str, int), "integer": int}
    return [] if isinstance(value, kinds.get(schema.get("type", ""), object)) else [f"{where}: {value!r}"]


def cloud_mistakes(name: str, node_config: dict[str, Any]) -> Any:
    return aws_mistakes(node_config) if name == "aws" else gcp_mistakes(node_config, {"$ref": "Instance"})


@pytest.mark.parametrize("name", NAMES)
def test_ray_takes_the_file(name):
    assert prepared(read(name))["cluster_name"] == read(name)["cluster_name"]


@pytest.mark.parametrize("name", NAMES)
def test_the_provider_has_only_keys_that_ray_knows(name):
    assert set(read(name)["provider"]) <= provider_keys()
    assert "worker_ip" not in provider_keys()


@pytest.mark.parametrize("name", CLOUDS)
def test_the_cloud_takes_both_types_of_nodes(name):
    for node_type in read(name)["available_node_types"].values():
        assert not cloud_mistakes(name, node_type["node_config"])


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_has_no_gpu_and_spot_workers_have_one_each_and_go_when_idle(name):
    config = prepared(read(name))
    head, worker = (config["available_node_types"][each] for each in (config["head_node_type"], "worker"))
    assert head["resources"].get("GPU", 0) == 0
    assert worker["resources"]["GPU"] == 1
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    spot = {"aws": ("InstanceMarketOptions", "MarketType", "spot"), "gcp": ("scheduling", "provisioningModel", "SPOT")}
    part, key, value = spot[name]
    assert worker["node_config"][part][key] == value
    assert not any(word in json.dumps(head["node_config"]) for word in ("spot", "SPOT"))


def test_every_machine_of_ones_own_joins():
    config = prepared(read("onprem"))
    (node_type,) = config["available_node_types"].values()
    assert node_type["min_workers"] == len(config["provider"]["worker_ips"]) == config["max_workers"]


@pytest.mark.parametrize("name", NAMES)
def test_every_node_has_the_token_and_asks_for_it_and_the_dashboard_stays_on_loopback(name):
    config = prepared(read(name))
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert not any("dashboard-host" in start for start in starts)


@pytest.mark.parametrize("name", NAMES)
def test_the_project_is_installed_from_the_files_that_are_sent(name):
    config = read(name)
    assert config["file_mounts"]["~/qlora-sweeps"] == "."
    installs = [each for each in config["setup_commands"] if "pip install" in each]
    assert len(installs) == 1
    assert "--constraint ~/qlora-sweeps/constraints.txt" in installs[0]
    assert (ROOT / "constraints.txt").exists()
