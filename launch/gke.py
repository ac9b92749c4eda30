"""Runs a job on GKE (any Kubernetes with JobSet will do for GPUs):

    python launch/gke.py apply --tpu v6e --topology 4x8 --image IMAGE -- --config ... --workdir /gcs/runs/a
    python launch/gke.py apply --gpu nvidia-h100-80gb -n 4 --chips 8 --image IMAGE -- ...

apply    prints a JobSet manifest with --dry-run, else gives it to kubectl
logs     follows all pods of a job
status   tells of a job, or of all
delete   ends a job for good

A preempted pod and the status `requeue` start all pods again and do not count; a crash does, `--restarts` times.
"""

import argparse
import dataclasses
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # `python launch/gke.py` finds both packages as well

from bigcl.host import REQUEUE, end_with_reader
from launch.bucket import FUSE, bucket_of
from launch.job import Arguments, Job, JobError, add_arguments, make_job, split

Manifest = dict[str, Any]

TPUS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
"""What a node pool calls its TPUs (label `cloud.google.com/gke-tpu-accelerator`)."""

PORT = 8476
"""Of the coordinator; only pods of the job reach it."""


@dataclasses.dataclass(frozen=True)
class Gke:
    """What the cluster needs to know beyond the job.

    tpu, topology: of each slice, as "v6e" and "4x8".  gpu: the label of the node pool's GPUs, as "nvidia-h100-80gb".
    slices: TPU slices that train together over the data-centre network; the mesh axis `replica` is theirs.
    queue: of Kueue, which admits the job as a whole.  spot: on nodes that may be taken away.
    namespace, account: of Kubernetes; the service account that may read and write the mounts.
    """

    tpu: str | None = None
    topology: str | None = None
    gpu: str | None = None
    slices: int = 1
    queue: str | None = None
    spot: bool = False
    namespace: str = "default"
    account: str | None = None

    def __post_init__(self) -> None:
        if (self.tpu is None) == (self.gpu is None):
            raise JobError("give --tpu and --topology, or --gpu")
        if self.tpu is not None and self.tpu not in TPUS:
            raise JobError(f"--tpu {self.tpu}: expected one of {', '.join(TPUS)}")
        if self.tpu is not None and not re.fullmatch(r"\d+(x\d+){1,2}", self.topology or ""):
            raise JobError(f"--topology {self.topology}: expected the shape of a slice, as 4x8 or 2x2x4")
        if self.slices < 1 or (self.gpu and self.slices > 1):
            raise JobError(f"--slices {self.slices}: 1 or more, of TPUs")


def on_slice(job: Job, gke: Gke) -> Job:
    """The job with the hosts and chips of a TPU slice: up to 4 chips a host, but 8 of a single-host v5e or v6e."""
    if not gke.tpu:
        if not job.chips:
            raise JobError("--chips: the GPUs of each node")
        return job
    total = math.prod(map(int, (gke.topology or "").split("x")))
    chips = job.chips or (total if total < 4 or (total == 8 and gke.tpu in ("v5e", "v6e")) else 4)
    if total % chips:
        raise JobError(f"--chips {chips}: a slice of {gke.topology} has {total} chips, which do not divide so")
    return dataclasses.replace(job, hosts=total // chips, chips=chips)


def manifest(job: Job, gke: Gke) -> Manifest:
    """The JobSet (jobset.x-k8s.io/v1alpha2): one child Job for each slice, one indexed pod for each host."""
    if not job.image:
        raise JobError("--image: pods need a container with bigcl in it")
    job = on_slice(job, gke)
    metadata: Manifest = {"name": job.name, "namespace": gke.namespace}
    if gke.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": gke.queue}
    if gke.tpu:  # one slice is one node pool, and no two child Jobs share one
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    template: Manifest = {
        "parallelism": job.hosts,
        "completions": job.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one lost pod is the end of this attempt: JobSet starts all again
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [REQUEUE]}},
            ]
        },
        "template": pod(job, gke),
    }
    rules = [
        {
            "name": "preempted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
        }
    ]
    if job.time:
        template["activeDeadlineSeconds"] = int(job.time.total_seconds())
        rules.append({"name": "overtime", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]})
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": job.restarts, "rules": rules},
            "replicatedJobs": [{"name": "host", "replicas": gke.slices, "template": {"spec": template}}],
        },
    }


def pod(job: Job, gke: Gke) -> Manifest:
    """The pod of each host."""
    device = "google.com/tpu" if gke.tpu else "nvidia.com/gpu"
    variables: list[Manifest] = [{"name": k, "value": v} for k, v in job.environment().items()]
    if gke.gpu and job.hosts > 1:  # on TPU slices JAX finds the others itself
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        variables += [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{job.name}-host-0-0.{job.name}:{PORT}"},
            {"name": "JAX_NUM_PROCESSES", "value": str(job.hosts)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        ]
    volumes, mounts = volumes_of(job)
    memory: Manifest = {
        "name": "shm",
        "emptyDir": {"medium": "Memory"},
    }  # workers of the input pipeline share through it
    selector: Manifest = {}
    if gke.tpu:
        selector["cloud.google.com/gke-tpu-accelerator"] = TPUS[gke.tpu]
        selector["cloud.google.com/gke-tpu-topology"] = gke.topology
    else:
        selector["cloud.google.com/gke-accelerator"] = gke.gpu
    if gke.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    spec: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,  # between SIGTERM and the end: time to save
        "nodeSelector": selector,
        "tolerations": [
            {"key": k, "operator": "Exists", "effect": "NoSchedule"}
            for k in (device, *(["cloud.google.com/gke-spot"] if gke.spot else []))
        ],
        "volumes": [memory, *volumes],
        "containers": [
            {
                "name": "train",
                "image": job.image,
                "command": job.command(),
                "env": variables,
                "ports": [{"containerPort": PORT, "protocol": "TCP"}],
                "resources": {"requests": {device: job.chips}, "limits": {device: job.chips}},
                "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],
            }
        ],
    }
    if gke.account:
        spec["serviceAccountName"] = gke.account
    fuse = any("csi" in volume for volume in volumes)
    return {**({"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}} if fuse else {}), "spec": spec}


def volumes_of(job: Job) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and where they appear: `gs://BUCKET:/PATH` by Cloud Storage FUSE, else `CLAIM:/PATH` a volume claim."""
    volumes, mounts = [], []
    for i, mount in enumerate(job.mounts):
        source, _, target = mount.rpartition(":")
        volume: Manifest = {"name": f"mount-{i}"}
        if source.startswith("gs://"):
            bucket, folder = bucket_of(source)
            options = ",".join([*FUSE, *([f"only-dir={folder}"] if folder else [])])
            volume["csi"] = {
                "driver": "gcsfuse.csi.storage.gke.io",
                "volumeAttributes": {"bucketName": bucket, "mountOptions": options},
            }
        else:
            volume["persistentVolumeClaim"] = {"claimName": source}
        volumes.append(volume)
        mounts.append({"name": volume["name"], "mountPath": target})
    return volumes, mounts


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Arguments]:
    """The arguments of this command and of bigcl.train."""
    parser = argparse.ArgumentParser(
        prog="launch/gke.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="do", required=True)
    apply = commands.add_parser("apply", help="start a job")
    add_arguments(apply)
    apply.add_argument("--tpu", help=f"{', '.join(TPUS)}")
    apply.add_argument("--topology", help="of a TPU slice: 4x8")
    apply.add_argument("--gpu", help="label of the node pool's GPUs: nvidia-h100-80gb")
    apply.add_argument("--slices", type=int, default=1, help="TPU slices that train together")
    apply.add_argument("--queue", help="of Kueue")
    apply.add_argument("--spot", action="store_true", help="on nodes that may be taken away")
    apply.add_argument("--account", help="the Kubernetes service account")
    apply.add_argument("--dry-run", action="store_true", help="print the manifest and do nothing")
    for name in ("logs", "delete"):
        commands.add_parser(name).add_argument("job")
    commands.add_parser("status").add_argument("job", nargs="?")
    for command in commands.choices.values():
        command.add_argument("--namespace", default="default")
    own, train = split(argv)
    return parser.parse_args(own), train


def main(argv: Sequence[str]) -> int:
    """Does one of the commands."""
    import yaml

    args, train = parse(argv)
    kubectl = ["kubectl", "--namespace", args.namespace]
    try:
        if args.do == "apply":
            fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(Gke)}
            text = yaml.safe_dump(manifest(make_job(args, train), Gke(**fields)), sort_keys=False)
            if args.dry_run:
                print(text, end="")
                return 0
            return subprocess.run([*kubectl, "apply", "-f", "-"], input=text, text=True, check=False).returncode
        if args.do == "logs":
            pods = ["-l", f"jobset.sigs.k8s.io/jobset-name={args.job}"]
            return subprocess.call([*kubectl, "logs", "--follow", "--prefix", "--max-log-requests=1000", *pods])
        if args.do == "delete":
            return subprocess.call([*kubectl, "delete", "jobset", args.job])
        return subprocess.call(
            [*kubectl, "get", "jobset,pods" if args.job is None else f"jobset/{args.job}", "-o", "wide"]
        )
    except JobError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError:
        sys.exit("error: kubectl is not installed here; --dry-run prints the manifest")


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main(sys.argv[1:]))
