"""KubeRay's manifests hold against its resource definitions, and their pods against Kubernetes' own schemas."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator
from launch_files import ROOT, document, documents, strict

MANIFESTS = (("kuberay-cluster.yaml", "RayCluster"), ("kuberay-job.yaml", "RayJob"))
CLUSTER_KEYS = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
}  # fmt: skip
HEAD_KEYS = {"serviceType", "rayStartParams", "template"}
WORKER_KEYS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_KEYS = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}


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


def groups(name: str, kind: str) -> list[dict[str, Any]]:
    """That of the head, and those of the workers."""
    spec = cluster_spec(name, kind)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(name: str, kind: str) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in groups(name, kind)]


def check_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_kubernetes_takes_the_pods_and_the_volume(name, kind):
    claim = document(name, "PersistentVolumeClaim")
    kubernetes_validate.validate(claim, kubernetes_validate.latest_version(), strict=True)
    for pod in pods(name, kind):
        check_pod(pod)
        with pytest.raises(kubernetes_validate.ValidationError):
            check_pod({**pod, "restartpolicy": "Never"})
    assert len(documents(name)) == 2


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_kuberay_takes_the_manifest(name, kind):
    assert checked(document(name, kind)) == []


def test_mistakes_in_a_manifest_are_seen():
    wrong = document(*MANIFESTS[0])
    wrong["spec"]["authOptions"]["mode"] = "tokens"
    wrong["spec"]["workerGroupSpecs"][0]["replicass"] = 1
    wrong["spec"]["headGroupSpec"]["rayStartParams"] = {"num-gpus": 0}
    assert len(checked(wrong)) == 3


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_the_manifest_has_only_keys_that_are_known_without_kuberays_definitions_too(name, kind):
    head, *workers = groups(name, kind)
    assert (set(cluster_spec(name, kind)), set(head)) == (CLUSTER_KEYS, HEAD_KEYS)
    assert all(set(group) == WORKER_KEYS for group in workers)
    assert kind == "RayCluster" or set(document(name, kind)["spec"]) == JOB_KEYS
    assert all(isinstance(value, str) for group in (head, *workers) for value in group["rayStartParams"].values())


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
