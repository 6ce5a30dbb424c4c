#!/usr/bin/env bash
# A job array on a real Slurm: one node on this machine, a time limit that stops the trials, tasks that go back
# into the queue and on from their checkpoints. Started by hand, as root, in minutes:
#
#   apt-get install slurm-wlm munge
#   runner/tests/slurm/run.sh path/to/runner
#
# Exit code 0 if every trial is done and at least one was put back into the queue; the daemons are stopped
# and everything else lies in a temporary folder that is printed.
set -euo pipefail

runner=$(realpath "${1:?path of a built runner}")
work=$(mktemp -d /tmp/slurm-test.XXXXXX)
echo "folder: $work"
mkdir -p "$work"/{bin,state,spool,run}
ln -s "$runner" "$work/bin/runner"
export PATH="$work/bin:$PATH" SLURM_CONF="$work/slurm.conf"
host=$(hostname -s)

cat >"$work/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/run/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmdPidFile=$work/run/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
SlurmctldPort=36817
SlurmdPort=36818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
KillWait=30
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 2>/dev/null
chmod 400 "$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$work/run/munge.socket" --pid-file="$work/run/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munge.seed"
slurmctld
slurmd
stop() {
    for daemon in slurmd slurmctld munged; do
        kill "$(cat "$work/run/$daemon.pid")" 2>/dev/null || true
    done
}
trap stop EXIT

cd "$work"
cat >sweep.yaml <<'YAML'
# Each trial trains for longer than it is given in one turn.
trial: {recipe: {extends: micro, epochs: 30}}
seeds: [0, 1]
backbones: [vit-micro]
datasets: [digits]
methods: [{use: full-finetune, set: {recipe.optimizer.lr: 0.001}}, linear-probe]
YAML
runner sweep plan --config sweep.yaml --out sweep --device cpu
# USR1 as early as the shortest limit allows.
runner sweep script sweep --for slurm --time 00:01:00 |
    sed 's/USR1@120/USR1@40/; s/cpus-per-task=4/cpus-per-task=1/' >job.sh
for _ in $(seq 30); do
    [[ $(sinfo -h -o %T) == idle ]] && break
    sleep 1
done
sbatch job.sh
while squeue -h | grep -q .; do
    sleep 5
    squeue -h -o '%i %T %M %R'
done
runner sweep status sweep
runner sweep collect sweep
requeued=$(cat sweep/slurm-*.txt | grep -c 'run the same command to go on' || true)
resumed=$(cat sweep/*/log.txt | grep -c '^resumed after epoch' || true)
echo "put back into the queue: $requeued times; resumed: $resumed times"
runner sweep status sweep --format json | grep -q '"done": 4' && ((requeued > 0 && resumed > 0))
