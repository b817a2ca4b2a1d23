#!/bin/bash
#SBATCH --job-name=celltrain
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --output=celltrain-%j.log
{partition}
# Submit it with: sbatch THIS_FILE
# Follow it from anywhere that sees the results folder: celltrain watch RUN
# Some clusters want more to be asked for, such as (without the second #):
##SBATCH --mem=32G
##SBATCH --account=NAME
# The job starts in the folder where sbatch was called; if it shall run elsewhere, go there here, such as:
# cd /path/to/project
# If the software is in an environment of its own, enter it here, such as:
# source ~/celltrain/bin/activate

set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE

# One torchrun on each node; they meet on the first one, at a port that differs from job to job.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${{hosts%%$'\n'*}}
port=$((20000 + SLURM_JOB_ID % 20000))

# Training ends by itself, with a validation, before SLURM would kill the job.
srun torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node={gpus} \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head_node:$port" \
    -m napari_celltrain train {config} --max-minutes {max_minutes}
