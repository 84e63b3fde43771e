#!/bin/bash
@options@
# Made by: @made@
# A signal, or the end of the time that is near, has the run save its step and end with code 4; then this job
# goes back into the queue and continues. Every other code ends it.
# Texts stand in quotes as they are, and the trap calls tell:
# shellcheck disable=SC2016,SC2317,SC2329
set -u
@environment@
cd -- @folder@ || exit 1

told=0
run=''
tell() {
    told=$((told + 1))
    if [ -n "$run" ]; then kill -USR1 "$run" 2>/dev/null; fi
}
trap tell USR1 TERM

@command@ &
run=$!
if [ "$told" -gt 0 ]; then kill -USR1 "$run"; fi
# A signal ends `wait` before the run has ended.
while true; do
    before=$told
    wait "$run"
    code=$?
    if [ "$code" -le 128 ] || [ "$told" -eq "$before" ]; then break; fi
done
# Told before it could listen, it died of the signal: 128 + SIGUSR1.
if [ "$code" -eq 138 ] && [ "$told" -gt 0 ]; then code=4; fi
if [ "$code" -ne 4 ]; then exit "$code"; fi

if [ "${SLURM_RESTART_COUNT:-0}" -ge @max_requeues@ ]; then
    echo "slurm: requeued ${SLURM_RESTART_COUNT:-0} times, which is the most; the same command continues" >&2
    exit 4
fi
# A job that somebody cancelled stays so.
case "$(scontrol show job --oneliner "$SLURM_JOB_ID")" in
    *' JobState=RUNNING '*) ;;
    *)
        echo 'slurm: the job is ending already; it is not requeued' >&2
        exit 4
        ;;
esac
if ! scontrol requeue "$SLURM_JOB_ID"; then
    echo 'slurm: the job could not be requeued; submit it again, and it continues' >&2
fi
exit 4
