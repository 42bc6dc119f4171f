#!/usr/bin/env bash
# A whole SLURM on this machine (slurmctld, slurmd and munge, all with files of their own in a temporary folder), and on it a small batch
# through dask-jobqueue with a job killed on the way; its results must be those of the local engine, byte for byte.
#
#     benchmarks/cluster/slurm_one_node.sh [python]
#
# Needs root; installs Debian's packages if they are missing. Exits with 77 and the reason where it cannot (a skip, for CI).
set -euo pipefail
python=$(realpath --no-symlinks "${1:-$(command -v python3)}")
here=$(cd "$(dirname "$0")" && pwd)

skip() { echo "skipped: $*"; exit 77; }

[ "$(id -u)" = 0 ] || skip "SLURM's daemons are started as root"
"$python" -c 'import distributed, dask_jobqueue, evolve' || skip "$python lacks evolve-learngene[cluster]"
if ! command -v slurmctld slurmd munged sbatch > /dev/null; then
    command -v apt-get > /dev/null || skip "no SLURM here, and no apt to install it"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge; } \
        > /tmp/slurm_one_node.apt.log 2>&1 || skip "apt could not install SLURM (see /tmp/slurm_one_node.apt.log)"
fi

folder=$(mktemp -d)
started=()
finish() {
    status=$?
    scancel --full --user root 2> /dev/null || true
    for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait
    if [ "$status" = 0 ]; then rm -rf "$folder"; else echo "what is left of it: $folder"; fi
}
trap finish EXIT

mkdir "$folder/munge" "$folder/state" "$folder/spool"
dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 2> /dev/null
chmod 400 "$folder/munge/key"
chmod 711 "$folder" "$folder/munge"
munged --foreground --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" > "$folder/munged.out" 2>&1 &
started+=($!)

# The node as slurmd sees it, with some memory left to the system.
node=$(slurmd -C | head -1 | tr ' ' '\n' | grep -v RealMemory | tr '\n' ' ')
name=$(echo "$node" | sed 's/^NodeName=\([^ ]*\).*/\1/')
memory=$(slurmd -C | grep -o 'RealMemory=[0-9]*' | cut -d= -f2)
cat > "$folder/slurm.conf" << CONF
ClusterName=one
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
SlurmUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
$node RealMemory=$((memory - 512)) NodeAddr=127.0.0.1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld -D -f "$SLURM_CONF" > "$folder/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D -f "$SLURM_CONF" -N "$name" > "$folder/slurmd.out" 2>&1 &
started+=($!)
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format %t 2> /dev/null)" = idle ] && break
    sleep 1
done
sinfo
[ "$(sinfo --noheader --format %t)" = idle ] || { tail -5 "$folder"/*.out; skip "SLURM's node did not come up here"; }

"$python" "$here/compare.py" "$folder"
