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
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID  # not SLURM_JOB_ID: one task has the number of the whole array
mkdir -p "$run"
rm -f "$run/STOP"
requeue() {  # a cancelled job stops like a preempted one, but is not to come back
    if scontrol show job -o "$task" | grep -q 'JobState=\(RUNNING\|PREEMPTED\)'; then
        scontrol requeue "$task"
    fi
}
stop() {
    say "stop requested"
    touch "$run/STOP"
    again=1
    [ -n "$timer" ] || { late & timer=$!; }
}
late() {  # a job killed at its limit does not come back: one that does not stop in time is requeued before
    trap 'kill $!; exit' TERM
    sleep @GRACE@ &
    wait
    say "it did not stop in time"
    requeue
}
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
say "$name: exit status $status"
[ "$status" != 75 ] || requeue
exit $status
