"""Buckets of Google Cloud as folders."""

import shlex

from launch.job import JobError

FUSE = ("implicit-dirs", "rename-dir-limit=200000")
"""Options of Cloud Storage FUSE: folders are seen that are but parts of names, and may be renamed, as a checkpoint is
when it is whole."""

MOUNT = (
    "command -v gcsfuse >/dev/null || {{ curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg"
    " | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null"
    ' && echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt'
    ' gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null'
    " && sudo apt-get update -q && sudo apt-get install -qy gcsfuse; }}"
    " && {{ mountpoint -q {target} || {{ sudo mkdir -p {target} && sudo chown $(id -u) {target}"
    " && gcsfuse {options} {bucket} {target}; }}; }}"
)
"""Installs Cloud Storage FUSE, as its manual says, and makes a bucket a folder."""


def bucket_of(source: str) -> tuple[str, str]:
    """Bucket and folder (or "") of the SOURCE of a mount, `gs://BUCKET[/FOLDER]`."""
    bucket, _, folder = source.removeprefix("gs://").partition("/")
    return bucket, folder


def mount_command(mount: str) -> str:
    """The shell line that makes `gs://BUCKET:/PATH` a folder of a host. Raises JobError for other sources."""
    source, _, target = mount.rpartition(":")
    if not source.startswith("gs://"):
        raise JobError(f"--mount {mount}: TPU VMs mount buckets alone, gs://BUCKET:/PATH")
    bucket, folder = bucket_of(source)
    options = [f"--{option}" for option in (*FUSE, *([f"only-dir={folder}"] if folder else []))]
    return MOUNT.format(target=shlex.quote(target), options=shlex.join(options), bucket=shlex.quote(bucket))
