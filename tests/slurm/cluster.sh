#!/usr/bin/env bash
# A SLURM cluster of two nodes on this one machine, for the tests of workflow/profiles/slurm.
#
#   tests/slurm/cluster.sh start    start it, or do nothing if it runs
#   tests/slurm/cluster.sh stop     cancel its jobs, stop its daemons, remove its configuration
#
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge. The configuration has to lie in
# /etc/slurm: inside a job, srun does not see SLURM_CONF. One that is not ours is never touched.
set -euo pipefail

conf=/etc/slurm/slurm.conf
state=/var/spool/sacd-slurm # not below /run or /tmp, which may be mounted noexec: job scripts run here
mark="# written by sacd's tests/slurm/cluster.sh"

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

ours() { [[ -f $conf && $(head -n 1 "$conf") == "$mark" ]]; }

# Both nodes answer and take, or already run, jobs.
ready() { [[ $(timeout 5 sinfo -h -N -p cpu -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated)$') == 2 ]]; }

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
    # how long squeue remembers an ended job: the profile's status checks live on that.
    cat >"$conf" <<EOF
$mark
ClusterName=sacd
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
AuthType=auth/munge
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
KillWait=2
MinJobAge=300
GresTypes=gpu
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=16818 CPUs=8 RealMemory=20000 Gres=gpu:1
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=16819 CPUs=8 RealMemory=20000 Gres=gpu:1
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes=n1,n2 MaxTime=INFINITE
EOF
    echo "NodeName=n[1-2] Name=gpu File=/dev/null" >/etc/slurm/gres.conf
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
    slurmd -N n1 >/dev/null 2>&1
    slurmd -N n2 >/dev/null 2>&1
    for _ in {1..60}; do
        if ready; then
            echo "cluster.sh: two nodes, partitions cpu (default) and gpu"
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
    stop_daemon slurmd "$state/slurmd-n1.pid"
    stop_daemon slurmd "$state/slurmd-n2.pid"
    stop_daemon slurmctld "$state/slurmctld.pid"
    if [[ -e $state/started-munge ]]; then stop_daemon munged /run/munge/munged.pid; fi
    rm -rf "$state"
    if ours; then rm -f /etc/slurm/gres.conf "$conf"; fi
    echo "cluster.sh: stopped"
}

case ${1:-} in
start | stop) "$1" ;;
*) fail "say start or stop" ;;
esac
