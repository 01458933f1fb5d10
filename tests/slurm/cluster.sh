#!/usr/bin/env bash
# A SLURM cluster of four nodes on this one machine, for the tests of workflow/profiles/slurm: two to
# work on, and two for what goes wrong (on n3 the partition `urgent` puts others' jobs off; n4 fails).
#
#   tests/slurm/cluster.sh start    start it, or do nothing if it runs
#   tests/slurm/cluster.sh stop     cancel its jobs, stop its daemons, remove its configuration
#   tests/slurm/cluster.sh down N   let a node fail, with all that runs on it
#   tests/slurm/cluster.sh up N     bring it back
#
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge. The configuration has to lie in
# /etc/slurm: inside a job, srun does not see SLURM_CONF. One that is not ours is never touched.
set -euo pipefail

conf=/etc/slurm/slurm.conf
state=/var/spool/sacd-slurm # not below /run or /tmp, which may be mounted noexec: job scripts run here
nodes=(n1 n2 n3 n4)
mark="# written by sacd's tests/slurm/cluster.sh"

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

ours() { [[ -f $conf && $(head -n 1 "$conf") == "$mark" ]]; }

# All nodes answer and take, or already run, jobs.
ready() { [[ $(timeout 5 sinfo -h -N -o '%N %T' 2>/dev/null | sort -u | grep -cE ' (idle|mixed|allocated)$') == "${#nodes[@]}" ]]; }

# $1: a daemon, $2: its pid file. Ends it, if the process of that number still is that daemon.
stop_daemon() {
    local pid
    pid=$(cat "$2" 2>/dev/null) || return 0
    runs() { [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$1" ]]; }
    if runs "$1"; then kill "$pid"; fi
    for _ in {1..50}; do
        runs "$1" || break
        sleep 0.1
    done
    if runs "$1"; then kill -9 "$pid"; fi
    rm -f "$2"
}

write_configuration() {
    mkdir -p /etc/slurm "$state"
    # The nodes claim cores and memory that may not be there (config_overrides), so that one of the
    # profile's big jobs fits on each; nothing enforces them (no cgroups, no accounting). MinJobAge is
    # how long squeue remembers an ended job: the profile's status checks live on that. A job that
    # was put off or lost its node waits for cred_expire (two minutes by default) before it goes on.
    cat >"$conf" <<EOF
$mark
ClusterName=sacd
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=cred_expire=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
MpiDefault=none
KillWait=30
MinJobAge=300
GresTypes=gpu
$(for number in "${!nodes[@]}"; do
        echo "NodeName=${nodes[number]} NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((16818 + number)) CPUs=8 RealMemory=20000 Gres=gpu:1"
    done)
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes=n1,n2 MaxTime=INFINITE
PartitionName=spare Nodes=n3 MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=n3 MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
PartitionName=fragile Nodes=n4 MaxTime=INFINITE
EOF
    echo "NodeName=n[1-4] Name=gpu File=/dev/null" >/etc/slurm/gres.conf
}

start_munge() {
    if munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then return; fi
    mkdir -p /run/munge
    chown munge: /run/munge
    if [[ ! -f /etc/munge/munge.key ]]; then
        (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
        chown munge: /etc/munge/munge.key
    fi
    setpriv --reuid=munge --regid=munge --clear-groups munged
    touch "$state/started-munge"
}

start() {
    [[ $(id -u) == 0 ]] || fail "starting SLURM needs root"
    local program
    for program in slurmctld slurmd squeue munged; do
        command -v $program >/dev/null || fail "$program is missing: apt-get install slurmctld slurmd slurm-client munge"
    done
    if [[ -e $conf ]] && ! ours; then fail "$conf is another cluster's: left alone"; fi
    if ours && ready; then
        echo "cluster.sh: already up"
        return
    fi

    if ours; then stop; fi # half up, or left by a machine that went down
    write_configuration
    start_munge
    # The daemons must not keep this script's output open: a caller may wait for its end.
    slurmctld -c >/dev/null 2>&1
    local node
    for node in "${nodes[@]}"; do slurmd -N "$node" >/dev/null 2>&1; done
    for _ in {1..60}; do
        if ready; then
            echo "cluster.sh: ${#nodes[@]} nodes, partitions cpu (default), gpu, spare, urgent and fragile"
            return
        fi
        sleep 0.5
    done
    sinfo -N -l >&2 || true
    tail -n 5 "$state"/*.log >&2 || true
    fail "the nodes did not come up within 30 seconds"
}

stop() {
    if [[ -e $conf ]] && ! ours; then fail "$conf is another cluster's: left alone"; fi
    if ours; then
        timeout 5 scancel -u "$(id -un)" 2>/dev/null || true
        for _ in {1..50}; do # let the nodes end the jobs' processes before they end themselves
            [[ $(timeout 5 squeue -h -t R,CG 2>/dev/null | wc -l) != 0 ]] || break
            sleep 0.2
        done
    fi
    local node
    for node in "${nodes[@]}"; do stop_daemon slurmd "$state/slurmd-$node.pid"; done
    stop_daemon slurmctld "$state/slurmctld.pid"
    if [[ -e $state/started-munge ]]; then stop_daemon munged /run/munge/munged.pid; fi
    rm -rf "$state"
    if ours; then rm -f /etc/slurm/gres.conf "$conf"; fi
    echo "cluster.sh: stopped"
}

# Kills a node's daemon first, then its jobs' own daemons, which would report their end, then the rest.
down() {
    ours || fail "no cluster of ours runs"
    kill -9 "$(cat "$state/slurmd-$1.pid")"
    local process
    for process in $(pgrep slurmstepd); do
        if ls -l "/proc/$process/fd" 2>/dev/null | grep -q "slurmd-$1.log"; then kill -9 "$process"; fi
    done
    for process in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qx "SLURMD_NODENAME=$1"; then
            kill -9 "${process#/proc/}" 2>/dev/null || true
        fi
    done
    scontrol update "nodename=$1" state=down reason=test
    echo "cluster.sh: $1 is down"
}

up() {
    ours || fail "no cluster of ours runs"
    slurmd -N "$1" >/dev/null 2>&1
    scontrol update "nodename=$1" state=resume 2>/dev/null || true # it may be back by itself
    echo "cluster.sh: $1 is up"
}

case ${1:-} in
start | stop) "$1" ;;
down | up) "$1" "${2:?say which node}" ;;
*) fail "say start, stop, down NODE or up NODE" ;;
esac
