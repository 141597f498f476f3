#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests: its own munged, slurmctld and slurmd, all they write in one folder.
#
#   eval "$(scripts/slurm_one_node.sh start)"   start it, or find it started; prints the environment that uses it
#   scripts/slurm_one_node.sh status            what runs; code 1 where it does not answer
#   scripts/slurm_one_node.sh kill-node         SIGKILL to slurmd alone, as in a crash; `start` brings it back
#   scripts/slurm_one_node.sh stop              cancel the jobs, end the daemons, remove the folder
#   scripts/slurm_one_node.sh install           Debian's packages slurm-wlm and munge, where they are missing
#
# The folder is SHARELORA_SLURM_DIR, by default slurm-one-node in the folder of temporary files. SHARELORA_SLURM_CPUS are the node's
# CPUs, by default the machine's. A cluster of the machine's own is not touched: ports, sockets and configuration are others.
set -euo pipefail

folder="${SHARELORA_SLURM_DIR:-${TMPDIR:-/tmp}/slurm-one-node}"
cpus="${SHARELORA_SLURM_CPUS:-$(nproc)}"
PATH="$PATH:/usr/sbin:/sbin"
export SLURM_CONF="$folder/slurm.conf"

say() { printf 'slurm_one_node: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# The process of a pid file, where it lives and is that program. One that is dead and not yet reaped has no `exe`.
process() {
    local pid
    pid=$(cat "$folder/$1.pid" 2>/dev/null) || return 1
    [[ $pid && $(readlink "/proc/$pid/exe" 2>/dev/null) == */"$1"* ]] && printf '%s\n' "$pid"
}

# eventually SECONDS COMMAND...: until the command succeeds.
eventually() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

answers() { [[ $(timeout 5 sinfo --noheader --format=%t 2>/dev/null) =~ ^(idle|mix|alloc|comp)$ ]]; }

is_free() { ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_ports() {
    local port
    for ((port = 16817; port < 17817; port += 2)); do
        if is_free "$port" && is_free "$((port + 1))"; then
            echo "$port $((port + 1))"
            return
        fi
    done
    fail "no free port between 16817 and 17817"
}

configure() {
    local host memory ports
    host=$(hostname -s)
    memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
    read -r -a ports <<<"$(free_ports)"
    cat >"$SLURM_CONF" <<END
ClusterName=one-node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2,sched_min_interval=100000
ReturnToService=2
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
END
}

start() {
    local program host
    ((EUID == 0)) || fail "needs root: slurmd starts processes in the name of others, and its daemons run as root"
    for program in munged slurmctld slurmd sbatch squeue; do
        command -v "$program" >/dev/null || fail "$program is missing: scripts/slurm_one_node.sh install"
    done
    host=$(hostname -s)
    [[ $host ]] || fail "the machine has no host name"
    # munged wants a socket that others reach in a folder that others cannot write.
    mkdir -p "$folder"/{state,spool}
    chmod 755 "$folder"
    [[ -f $SLURM_CONF ]] || configure
    if ! process munged >/dev/null; then
        if [[ ! -f $folder/munge.key ]]; then
            (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
        fi
        rm -f "$folder/munge.socket" "$folder/munge.socket.lock"
        # Where the machine's other folders are open to all, munged refuses its socket: the cluster lives on this machine alone.
        munged --force --num-threads=2 --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
            --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed" --log-file="$folder/munged.log" \
            >"$folder/munged.out" 2>&1 || fail "munged does not start: $(cat "$folder/munged.out")"
        eventually 10 test -S "$folder/munge.socket" || fail "munged makes no socket: $folder/munged.log"
    fi
    process slurmctld >/dev/null || slurmctld -f "$SLURM_CONF" </dev/null >"$folder/slurmctld.out" 2>&1 ||
        fail "slurmctld does not start: $(tail -3 "$folder/slurmctld.out" "$folder/slurmctld.log" 2>/dev/null)"
    process slurmd >/dev/null || slurmd -f "$SLURM_CONF" -N "$host" </dev/null >"$folder/slurmd.out" 2>&1 ||
        fail "slurmd does not start: $(tail -3 "$folder/slurmd.out" "$folder/slurmd.log" 2>/dev/null)"
    # A daemon writes its number a moment after it is started.
    for program in slurmctld slurmd; do
        eventually 10 process "$program" || fail "$program ends at once: $(tail -3 "$folder/$program.log")"
    done
    if ! eventually 15 answers; then
        # A node that was lost is not always taken back by itself.
        scontrol update "nodename=$host" state=resume >/dev/null 2>&1 || true
        eventually 15 answers || fail "the node does not become idle: $(sinfo 2>&1; tail -5 "$folder/slurmctld.log")"
    fi
    say "$(sinfo --noheader --format='node %n, %c CPUs, %m MB, %T'), files in $folder"
    printf 'export SLURM_CONF=%q\nexport SHARELORA_SLURM=1\nexport SHARELORA_SLURM_DIR=%q\n' "$SLURM_CONF" "$folder"
}

stop() {
    local program pid
    if process slurmctld >/dev/null && process munged >/dev/null; then
        timeout 5 scancel --user="$(id -un)" 2>/dev/null || true
        eventually 10 eval '[[ -z $(squeue --noheader) ]]' || true
    fi
    for program in slurmd slurmctld munged; do
        pid=$(process "$program") || continue
        kill "$pid" 2>/dev/null || true
        eventually 10 eval "! process $program" || kill -9 "$pid" 2>/dev/null || true
    done
    # The keepers of single jobs outlive slurmd; each has the folder's configuration in its environment.
    for pid in $(pgrep -x slurmstepd || true); do
        if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "SLURM_CONF=$SLURM_CONF"; then
            kill -9 "$pid" 2>/dev/null || true
        fi
    done
    [[ ! -f $SLURM_CONF ]] || rm -rf "$folder"
    say "stopped"
}

status() {
    local program pid code=0
    for program in munged slurmctld slurmd; do
        if pid=$(process "$program"); then
            printf '%-10s process %s\n' "$program" "$pid"
        else
            printf '%-10s not running\n' "$program"
            code=1
        fi
    done
    ((code)) || answers || code=1
    ((code)) || sinfo
    return "$code"
}

install() {
    local program missing=
    for program in munged slurmctld slurmd sbatch squeue; do
        command -v "$program" >/dev/null || missing=1
    done
    [[ $missing ]] || return 0
    ((EUID == 0)) || fail "Slurm is not installed, and installing it needs root"
    command -v apt-get >/dev/null || fail "Slurm is not installed, and there is no apt-get to install it with"
    export DEBIAN_FRONTEND=noninteractive
    timeout 60 apt-get update >/dev/null 2>&1 || fail "apt-get update fails"
    timeout 120 apt-get install --yes --no-install-recommends slurm-wlm munge >/dev/null 2>&1 ||
        fail "apt-get cannot install slurm-wlm and munge"
}

case "${1:-}" in
start | stop | status | install) "$1" ;;
kill-node)
    pid=$(process slurmd) || fail "slurmd is not running"
    kill -9 "$pid"
    ;;
*) fail "start, stop, status, kill-node or install" ;;
esac
