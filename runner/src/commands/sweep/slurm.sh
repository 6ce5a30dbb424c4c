#!/bin/bash
# One trial per task of a job array. Two minutes before the time limit Slurm sends USR1 to the step: the
# trial saves a checkpoint and exits with 75, and the task is queued again to resume from there.
#   sbatch FILE
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --time={time}
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={sweep}/slurm-%a.txt
#SBATCH --cpus-per-task=4
# For a GPU: #SBATCH --gres=gpu:1

srun runner sweep run "{sweep}" --index "$SLURM_ARRAY_TASK_ID" --threads "$SLURM_CPUS_PER_TASK"
code=$?
if [[ $code -eq 75 ]]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
