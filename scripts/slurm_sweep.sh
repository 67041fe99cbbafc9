#!/usr/bin/env bash
# A sweep on several nodes of SLURM: Ray is started on each, and the sweep runs on the first one.
#
#     sbatch --nodes=8 scripts/slurm_sweep.sh paper.toml /shared/paper
#
# The file, the models, the images and the output folder must be on a file system that all nodes share, or the output a
# URL such as s3://bucket/paper. When the time of the batch job is over, submit the same command again: jobs of the sweep
# that are done are not done again. Adapt the lines with #SBATCH, and the activation of the environment.
#SBATCH --job-name=replk-probe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "Usage: sbatch scripts/slurm_sweep.sh FILE.toml OUTPUT [OPTION...]" >&2
    exit 2
fi
file=$1 output=$2
shift 2

# . /shared/venv/bin/activate

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{ print $1 }')
# Several batch jobs can share a node, so that each has a port of its own.
port=$((20000 + SLURM_JOB_ID % 10000))
address=$ip:$port
export RAY_USAGE_STATS_ENABLED=0
# Other users of the nodes must not run code in this cluster. Ray reads the token from ~/.ray, which all nodes share; create
# it once with: ray get-auth-token --generate
export RAY_AUTH_MODE=token
# Ray ends tasks when the memory of a node is used up. By default, it runs them again without end.
export RAY_task_oom_retries=3

resources=(--num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")
# All processes that srun starts end with this script.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --node-ip-address="$ip" --port="$port" --include-dashboard=false "${resources[@]}" &
until ray health-check --address "$address" >/dev/null 2>&1; do sleep 2; done

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --block --address="$address" "${resources[@]}" &
fi

# --overlap: the sweep itself runs where the first node of Ray runs, and needs almost nothing.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    replk-probe sweep "$file" --output "$output" --engine ray --address "$address" "$@"
