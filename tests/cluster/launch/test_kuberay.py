"""KubeRay's manifests hold against its resource definitions, and their pods against Kubernetes' own schemas."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator
from launch_files import ROOT, document, documents, strict

MANIFESTS = (("kuberay-cluster.yaml", "RayCluster"), ("kuberay-job.yaml", "RayJob"))


def cluster_spec(name: str, kind: str) -> dict[str, Any]:
    spec = document(name, kind)["spec"]
    return spec if kind == "RayCluster" else spec["rayClusterSpec"]


def checked(manifest: dict[str, Any]) -> list[str]:
    """What KubeRay's definition says; the test is skipped where the definitions are not beside the checkout."""
    file = ROOT.parent / "shared" / "data" / f"kuberay-{manifest['kind'].lower()}-v1.schema.json"
    if not file.exists():
        pytest.skip(f"KubeRay's resource definitions are not there: {file}")
    schema = strict(json.loads(file.read_text()))
    schema["properties"].update(apiVersion={"const": "ray.io/v1"}, kind={"const": manifest["kind"]}, metadata={})
    return [error.message for error in Draft202012Validator(schema).iter_errors(manifest)]


def pods(name: str, kind: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name, kind)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_kubernetes_takes_the_pods_and_the_volume_and_kuberay_the_manifest(name, kind):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    for each in (*({**pod, "spec": spec} for spec in pods(name, kind)), document(name, "PersistentVolumeClaim")):
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    assert len(documents(name)) == 2
    assert checked(document(name, kind)) == []


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_the_head_has_no_gpu_and_all_pods_share_the_volume_and_the_image(name, kind):
    containers = [pod["containers"][0] for pod in pods(name, kind)]
    head, worker = (container["resources"]["limits"] for container in containers)
    assert ("nvidia.com/gpu" in head, worker["nvidia.com/gpu"]) == (False, 1)
    assert cluster_spec(name, kind)["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    claim = document(name, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod, container in zip(pods(name, kind), containers, strict=True):
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
        assert pod["shareProcessNamespace"] is True
    assert len({container["image"] for container in containers}) == 1


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_the_token_is_kuberays_and_only_the_head_knows_the_password_of_mlflow(name, kind):
    assert cluster_spec(name, kind)["authOptions"] == {"mode": "token"}
    assert cluster_spec(name, kind)["enableInTreeAutoscaling"] is True
    variables = [pod["containers"][0]["env"] for pod in pods(name, kind)]
    assert ["MLFLOW" in json.dumps(each) for each in variables] == [True, False]
    secrets = {each["valueFrom"]["secretKeyRef"]["name"] for env in variables for each in env if "valueFrom" in each}
    assert secrets == {"qsweep-login"}
    assert document(name, kind)["metadata"]["name"] not in secrets


def test_a_job_waits_for_its_workers_and_a_cluster_that_stays_begins_without_any():
    """KubeRay submits a job when as many workers are ready as `replicas` says."""
    (job,) = cluster_spec(*MANIFESTS[1])["workerGroupSpecs"]
    (stays,) = cluster_spec(*MANIFESTS[0])["workerGroupSpecs"]
    assert job["replicas"] == job["minReplicas"] > 0
    assert stays["replicas"] == stays["minReplicas"] == 0 < stays["maxReplicas"]
