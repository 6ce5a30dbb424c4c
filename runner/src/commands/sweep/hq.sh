#!/bin/bash
# One trial per task of a HyperQueue array, within {time}. HyperQueue restarts a task whose worker is lost,
# and the trial resumes from its checkpoint. A trial that reaches its own limit gets USR1, saves a
# checkpoint and is resumed at once.
hq submit --name "{name}" --array 0-{last} --cpus 4 --crash-limit unlimited -- bash -c '
    seconds=$(awk -F: "{ print \$1 * 3600 + \$2 * 60 + \$3 }" <<<"{time}")
    while :; do
        timeout --signal=USR1 --kill-after=300 "$seconds" \
            runner sweep run "{sweep}" --index "$HQ_TASK_ID" --threads 4
        code=$?
        # 124: timeout sent its signal, and the trial was saved.
        [[ $code -eq 75 || $code -eq 124 ]] || exit "$code"
    done'
