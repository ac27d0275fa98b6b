#!/bin/sh
#SBATCH --job-name=mirrors
#SBATCH --array=0-7
#SBATCH --mem=256M
# One manifest, a Slurm array of eight tasks: sbatch shards-slurm.sh
mirror-git-to-s3 --manifest mirrors.txt --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
