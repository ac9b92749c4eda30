#!/usr/bin/env bash
# A real two-node Slurm on this one machine, for testing launchers. Run as root on Debian.
#   slurm_local.sh start [NODES=2]   install (if missing), configure and start munged, slurmctld and one slurmd per node n1..nN
#   slurm_local.sh stop              stop what start started
# State lives under $SLURM_LOCAL (default: /tmp/slurm_local). Then sbatch, srun, squeue, scontrol, scancel work as on a cluster;
# each node claims 2 CPUs and 4 GB. Node names resolve to 127.0.0.1 (added to /etc/hosts once), so a process started by srun finds
# its coordinator by host name. `scontrol requeue JOB` and `--signal=B:USR1@30` behave as in production.
set -euo pipefail
state=${SLURM_LOCAL:-/tmp/slurm_local}
case "${1:-}" in
start)
  nodes=${2:-2}
  if ! command -v slurmctld >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
  fi
  mkdir -p "$state" /run/munge /var/log/munge /var/lib/munge
  [[ -f /etc/munge/munge.key ]] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
  chown -R munge:munge /etc/munge /run/munge /var/log/munge /var/lib/munge
  chmod 400 /etc/munge/munge.key; chmod 755 /run/munge
  [[ -S /run/munge/munge.socket.2 ]] && munge -n >/dev/null 2>&1 || su -s /bin/bash munge -c munged
  host=$(hostname -s)
  for i in $(seq "$nodes"); do
    grep -qE "[[:space:]]n$i( |$)" /etc/hosts || echo "127.0.0.1 n$i" >>/etc/hosts
  done
  cat >/etc/slurm/slurm.conf <<C
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/slurmd.%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-$((17000 + nodes))] CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=120 State=UP OverSubscribe=YES
C
  mkdir -p "$state/ctld"
  slurmctld
  for i in $(seq "$nodes"); do slurmd -N "n$i"; done
  for _ in $(seq 30); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 1; done
  sinfo
  ;;
stop)
  for f in "$state"/slurmd.*.pid "$state"/slurmctld.pid; do [[ -f $f ]] && kill "$(cat "$f")" || true; done
  ;;
*) sed -n '2,8p' "$0"; exit 2 ;;
esac
