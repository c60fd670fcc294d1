"""The files of `ray up` hold against Ray's own check, and their cloud parts against the clouds' own models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import googleapiclient
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from jsonschema import Draft202012Validator
from launch_files import LAUNCH, ROOT, header, strict
from ray.autoscaler._private.util import prepare_config, validate_config

NAMES = ("aws", "gcp", "onprem")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    found = prepare_config(config)
    validate_config(found)
    return found


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


def gcp_mistakes(node_config: dict[str, Any]) -> list[str]:
    """What Compute Engine would say, by the discovery document that comes with Google's library."""
    file = Path(googleapiclient.__file__).parent / "discovery_cache/documents/compute.v1.json"
    text = re.sub(r'"\$ref": "(\w+)"', r'"$ref": "#/$defs/\1"', json.dumps(json.loads(file.read_text())["schemas"]))
    known = strict(json.loads(text.replace('"type": "string"', '"type": ["string", "integer"]')))
    validator = Draft202012Validator({"$ref": "#/$defs/Instance", "$defs": known})
    return [error.message for error in validator.iter_errors(node_config)]


MISTAKES = {"aws": aws_mistakes, "gcp": gcp_mistakes}


@pytest.mark.parametrize("name", NAMES)
def test_ray_takes_the_file_and_every_node_has_the_token_asks_for_it_and_installs_what_was_sent(name):
    config = prepared(read(name))
    assert config["cluster_name"] == read(name)["cluster_name"]
    known = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    assert set(read(name)["provider"]) <= set(known["properties"]["provider"]["properties"])
    assert read(name)["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token", "~/qlora-sweeps": "."}
    starts = [config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert not any("dashboard-host" in start for start in starts), "the dashboard stays on loopback"
    (install,) = (each for each in read(name)["setup_commands"] if "pip install" in each)
    assert "--constraint ~/qlora-sweeps/constraints.txt" in install
    assert (ROOT / "constraints.txt").exists()


@pytest.mark.parametrize(
    ("name", "part", "key", "value"),
    [("aws", "InstanceMarketOptions", "MarketType", "spot"), ("gcp", "scheduling", "provisioningModel", "SPOT")],
)
def test_the_cloud_takes_a_head_without_gpu_and_spot_workers_that_have_one_each_and_go_when_idle(
    name, part, key, value
):
    for node_type in read(name)["available_node_types"].values():
        assert not MISTAKES[name](node_type["node_config"])
    config = prepared(read(name))
    head, worker = (config["available_node_types"][each] for each in (config["head_node_type"], "worker"))
    assert (head["resources"].get("GPU", 0), worker["resources"]["GPU"]) == (0, 1)
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert worker["node_config"][part][key] == value
    assert not any(word in json.dumps(head["node_config"]) for word in ("spot", "SPOT"))


@pytest.mark.parametrize(("name", "key"), [("aws", "InstanceTyp"), ("gcp", "machineTyp")])
def test_a_typing_error_in_a_node_is_seen(name, key):
    assert key in str(MISTAKES[name]({**read(name)["available_node_types"]["head"]["node_config"], key: "x"}))


def test_every_machine_of_ones_own_joins():
    config = prepared(read("onprem"))
    (node_type,) = config["available_node_types"].values()
    assert node_type["min_workers"] == len(config["provider"]["worker_ips"]) == config["max_workers"]
    # Version 2 counts the head among the workers (ray 2.60, autoscaler/v2/scheduler.py, _enforce_min_workers_per_type).
    assert "RAY_enable_autoscaler_v2=0" in config["head_start_ray_commands"][-1]
    loop = f"for worker in {' '.join(config['provider']['worker_ips'])}; do ssh {config['auth']['ssh_user']}@$worker"
    assert loop in "\n".join(header(LAUNCH / "onprem.yaml")), "the line that ends Ray on the workers names them all"
