#!/bin/sh
# Puts the jobs 1 to $JOBS into the queue and ends.
set -eu
seq "$JOBS" | while read -r job; do
    redis-cli -h queue RPUSH jobs "$job" >/dev/null
done
echo "queued $JOBS jobs"
