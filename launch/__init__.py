"""Starts `bigcl.train` anywhere: this machine, Slurm, GKE, TPU VMs; one run or a sweep. See docs/launch.md."""
