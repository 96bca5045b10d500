@HEAD@
# One task of the array: `guidebook run`, which survives its time limit, a preemption and a dead node. This shell turns the
# notice into a file STOP in the run folder, every stage saves and exits with 75, and this task alone is requeued and continues.
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then  # where the processes of all nodes meet
    export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
fi
case $SLURM_ARRAY_TASK_ID in
@TASKS@
esac
say() { echo "$(date +%FT%T) $*"; }
say "$name: start $((${SLURM_RESTART_COUNT:-0} + 1)), job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"
array=$SLURM_ARRAY_JOB_ID
task=${array}_$SLURM_ARRAY_TASK_ID  # not SLURM_JOB_ID: one task has the number of the whole array
mkdir -p "$run"
job_is() { scontrol show job -o "$task" | grep -q "$1"; }
requeue() {  # a cancelled job stops like a preempted one, but is not to come back
    [ -n "$next" ] || ! job_is 'JobState=\(RUNNING\|PREEMPTED\)' || scontrol requeue "$task"
}
succeed() {  # where preemption cancels, requeueing is void: another job continues after this one, and the book waits for it too
    scontrol show partition "$SLURM_JOB_PARTITION" | grep -q PreemptMode=CANCEL && job_is 'PreemptTime=[0-9]' || return
    next=$(env -u SLURM_RESTART_COUNT sbatch --parsable --array="$SLURM_ARRAY_TASK_ID" -d "afterany:$task" "$0") || return
    next=${next%%;*}
    say "job ${next}_$SLURM_ARRAY_TASK_ID takes over"
    local row=$(grep -F "\"$task\"" @RECORDS@/"$array.json")
    row=$(sed "s#\([\"/]\)$task\([\".]\)#\1${next}_$SLURM_ARRAY_TASK_ID\2#g" <<< "${row%,}")
    echo "[$row]" > @RECORDS@/"$next.json"
    exec 9> @RECORDS@/.lock
    flock 9  # tasks that are preempted together
    squeue -h --me -n @BOOK@ -o '%i %E' | sed 's/([a-z]*)//g' | grep ":${array}_" | while read -r book after; do
        scontrol update JobId="$book" Dependency="$after,afterany:$next"
    done
    exec 9>&-
}
stop() {
    say "stop requested"
    # Named as `runs.manifest.me` names a process: dropped at the next start if we are gone. A person's is empty.
    printf %s "$(uname -n)-$(cut -c -8 /proc/sys/kernel/random/boot_id)-$$" > "$run/STOP"
    again=1
    [ -n "$next" ] || succeed
    [ -n "$timer" ] || { late & timer=$!; }
}
late() {  # a job killed at its limit does not come back: one that does not stop in time is requeued before
    trap 'kill $!; exit' TERM
    sleep @GRACE@ &
    wait
    say "it did not stop in time"
    requeue
}
next=
timer=
again=1
status=127
trap stop USR1 TERM
@PROGRAM@ run "${words[@]}" &
child=$!
while [ -n "$again" ]; do  # a trapped signal ends `wait` early; the second one gives 127 where the status is known already
    again=
    wait $child
    now=$?
    [ $now = 127 ] || status=$now
done
[ -z "$timer" ] || kill $timer
rm -f "$run/STOP"
[ "$status" != 75 ] || [ -n "$timer" ] || say "stopped by a file STOP in the run folder: it stays so until it is submitted again"
say "$name: exit status $status"
[ "$status" != 75 ] || [ -z "$timer" ] || requeue
exit $status
