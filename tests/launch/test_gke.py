"""JobSet manifests, against the schemas of Kubernetes and of JobSet as their published packages have them."""

import datetime
import subprocess
import sys

import pytest
import yaml

from bigcl.host import REQUEUE
from launch import gke
from launch.job import ROOT, Job, JobError

TRAIN = ("--config", "configs/emoji.py", "--workdir", "/gcs/runs/a")
FULL = {"image": "img", "restarts": 3, "env": {"A": "1"}, "mounts": ("gs://bucket/runs:/gcs", "claim:/data")}
CASES = {
    "one host": (Job(TRAIN, **FULL), gke.Gke(tpu="v6e", topology="2x4")),
    "slice": (Job(TRAIN, **FULL, time=datetime.timedelta(hours=1)), gke.Gke(tpu="v5p", topology="2x4x4", spot=True)),
    "multislice": (Job(TRAIN, **FULL), gke.Gke(tpu="v6e", topology="16x16", slices=4, queue="q", account="sa")),
    "gpu": (Job(TRAIN, **FULL, name="g", hosts=4, chips=8), gke.Gke(gpu="nvidia-h100-80gb", queue="q", spot=True)),
}


def child(manifest):
    """The spec of the child Jobs."""
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize("case", CASES)
def test_manifests_fit_the_published_schemas(case):
    """JobSet by the models of its API, batch/v1 by the strict JSON schemas: no field that they do not have."""
    validate = pytest.importorskip("kubernetes_validate")
    models = pytest.importorskip("kubeflow_trainer_api.models")
    manifest = gke.manifest(*CASES[case])
    read = models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    for key in ("failurePolicy", "replicatedJobs"):
        assert read["spec"][key] == manifest["spec"][key]  # an unknown or misspelt field would be lost
    assert read["metadata"] == manifest["metadata"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": child(manifest)}
    validate.validate(job, "1.36", strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(validate.ValidationError):
        validate.validate(job, "1.36", strict=True)


@pytest.mark.parametrize(
    "case, hosts, chips", [("one host", 1, 8), ("slice", 8, 4), ("multislice", 64, 4), ("gpu", 4, 8)]
)
def test_pods_and_devices(case, hosts, chips):
    manifest = gke.manifest(*CASES[case])
    spec, container = child(manifest), child(manifest)["template"]["spec"]["containers"][0]
    assert spec["parallelism"] == spec["completions"] == hosts and spec["completionMode"] == "Indexed"
    assert list(container["resources"]["limits"].values()) == [chips]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["BIGCL_DEVICES"] == str(chips) and env["A"] == "1"
    assert ("JAX_COORDINATOR_ADDRESS" in env) == (case == "gpu")  # on TPUs JAX asks the machine
    assert container["command"] == ["python", "-m", "bigcl.train", *TRAIN]


def test_gpu_pods_find_the_first_by_its_stable_name():
    container = child(gke.manifest(*CASES["gpu"]))["template"]["spec"]["containers"][0]
    env = {variable["name"]: variable for variable in container["env"]}
    assert env["JAX_COORDINATOR_ADDRESS"]["value"] == f"g-host-0-0.g:{gke.PORT}"
    assert "job-completion-index" in env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_preemption_and_requeue_do_not_count_as_crashes():
    """A pod that is disrupted, or asks to be started again, fails its Job with the reason that the JobSet ignores."""
    manifest = gke.manifest(*CASES["multislice"])
    by_pod = child(manifest)["podFailurePolicy"]["rules"]
    assert by_pod[0]["onPodConditions"][0]["type"] == "DisruptionTarget" and by_pod[1]["onExitCodes"]["values"] == [
        REQUEUE
    ]
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--tpu and --topology, or --gpu"),
        (["--tpu=v9", "--topology=2x2"], "--tpu v9: expected one of"),
        (["--tpu=v6e", "--topology=8"], "--topology 8"),
        (["--tpu=v6e", "--topology=4x4", "--chips=3"], "do not divide"),
        (["--gpu=h100"], "--chips"),
        (["--gpu=h100", "--chips=8", "--image="], "--image"),
    ],
)
def test_what_cannot_run_is_a_sentence(arguments, message):
    command = [sys.executable, "launch/gke.py", "apply", "--dry-run", "--image=i", *arguments, "--", *TRAIN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_dry_run_prints_the_manifest():
    command = ["apply", "--dry-run", "--image", "i", "--tpu", "v6e", "--topology", "4x4", "--time", "2h", "--"]
    done = subprocess.run([sys.executable, "launch/gke.py", *command, *TRAIN], cwd=ROOT, capture_output=True, text=True)
    manifest = yaml.safe_load(done.stdout)
    assert manifest["kind"] == "JobSet" and child(manifest)["activeDeadlineSeconds"] == 7200
    assert manifest["spec"]["failurePolicy"]["rules"][1]["action"] == "FailJobSet"
    with pytest.raises(JobError, match="--image"):
        gke.manifest(Job(TRAIN), gke.Gke(tpu="v6e", topology="4x4"))
