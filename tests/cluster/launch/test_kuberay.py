"""KubeRay's manifests hold against its resource definitions, and their pods against Kubernetes' own schemas."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator
from launch_files import ROOT, changed, document, documents, renamed, strict

MANIFESTS = (("kuberay-cluster.yaml", "RayCluster"), ("kuberay-job.yaml", "RayJob"))
CLUSTER_KEYS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
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


def check_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def pods(name: str, kind: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name, kind)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_kuberay_takes_the_manifest(name, kind):
    assert checked(document(name, kind)) == []


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("spec", "workerGroupSpecs", 0), lambda part: renamed(part, "replicas", "replicass")),
        (("spec", "authOptions", "mode"), lambda _part: "tokens"),
        (("spec", "headGroupSpec", "rayStartParams"), lambda _part: {"num-gpus": 0}),
    ],
)
def test_a_typing_error_is_seen(path, new):
    assert checked(changed(document("kuberay-cluster.yaml", "RayCluster"), path, new))


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_the_manifest_has_only_keys_that_it_is_known_to_need(name, kind):
    """Without KubeRay's definitions too."""
    spec = cluster_spec(name, kind)
    assert set(spec) == CLUSTER_KEYS
    assert set(spec["headGroupSpec"]) == HEAD_KEYS
    assert all(set(group) == WORKER_KEYS for group in spec["workerGroupSpecs"])
    if kind == "RayJob":
        assert set(document(name, kind)["spec"]) == JOB_KEYS
    params = [group["rayStartParams"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert all(isinstance(value, str) for group in params for value in group.values())


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_kubernetes_takes_the_pods_and_the_volume(name, kind):
    for pod in pods(name, kind):
        check_pod(pod)
    kubernetes_validate.validate(
        document(name, "PersistentVolumeClaim"), kubernetes_validate.latest_version(), strict=True
    )
    assert len(documents(name)) == 2


def test_a_typing_error_in_a_pod_is_seen():
    pod = pods("kuberay-cluster.yaml", "RayCluster")[0]
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod(renamed(pod, "restartPolicy", "restartpolicy"))


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_the_head_has_no_gpu_and_each_worker_has_one(name, kind):
    spec = cluster_spec(name, kind)
    head, worker = (pod["containers"][0]["resources"]["limits"] for pod in pods(name, kind))
    assert "nvidia.com/gpu" not in head
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert worker["nvidia.com/gpu"] == 1


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_all_pods_share_the_volume_and_the_image_and_only_the_head_knows_the_password_of_mlflow(name, kind):
    claim = document(name, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    containers = [pod["containers"][0] for pod in pods(name, kind)]
    for pod, container in zip(pods(name, kind), containers, strict=True):
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
        assert pod["shareProcessNamespace"] is True
    assert len({container["image"] for container in containers}) == 1
    assert ["MLFLOW" in json.dumps(container["env"]) for container in containers] == [True, False]


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_the_token_is_kuberays_and_its_secret_is_not_the_one_of_the_passwords(name, kind):
    assert cluster_spec(name, kind)["authOptions"] == {"mode": "token"}
    assert cluster_spec(name, kind)["enableInTreeAutoscaling"] is True
    secrets = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for pod in pods(name, kind)
        for variable in pod["containers"][0]["env"]
        if "valueFrom" in variable
    }
    assert secrets == {"qsweep-login"}
    assert document(name, kind)["metadata"]["name"] not in secrets


def test_a_job_waits_for_its_workers_and_a_cluster_that_stays_begins_without_any():
    """KubeRay submits a job when as many workers are ready as `replicas` says."""
    (job,) = cluster_spec(*MANIFESTS[1])["workerGroupSpecs"]
    (stays,) = cluster_spec(*MANIFESTS[0])["workerGroupSpecs"]
    assert job["replicas"] == job["minReplicas"] > 0
    assert stays["replicas"] == stays["minReplicas"] == 0 < stays["maxReplicas"]
