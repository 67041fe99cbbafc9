# %% [markdown]
# # A sweep on a cluster
#
# A sweep measures many models by several analyzers. It can be interrupted at any time, continues when the same call is
# made again, and gives the same bytes for any number of workers. This tutorial runs a small one on this machine, and
# shows what changes on a cluster.
#
# ## What to measure
#
# A sweep is a TOML file, or a dictionary with the same content. Every option of the commands `erf`, `shape-bias` and
# `kernels` can be given in the table of that name; those under `matrix` are combined.

# %%
# %%writefile paper.toml
models = ["replknet_micro_k3", "replknet_micro_k13"]
figures = false

[erf]
images = 4
[erf.matrix]
size = [64, 96]

[kernels]
layer = "all"

# %%
# %matplotlib inline
from replk_probe import sweep

result = sweep("paper.toml", "results", workers=1)
result

# %% [markdown]
# Each job is one model, one analyzer and one combination of settings. The workers are processes of their own: a job
# that fails, or a process that is killed, does not stop the others. (In a script, call `sweep` under `if __name__ ==
# "__main__":`.)
#
# ## Continue, and add to it
#
# The key of a job is a digest of everything that its numbers depend on. Jobs that are done are not done again, so that
# the second call takes a moment, and an additional size adds only its own jobs.

# %%
import time

start = time.perf_counter()
sweep("paper.toml", "results", workers=1)
print(f"second call: {time.perf_counter() - start:.1f} s")

# %% [markdown]
# ## One table
#
# `sweep.csv` has all numbers as a long table; `to_dataframe` returns it.

# %%
frame = result.to_dataframe()
ratios = frame[frame["metric"].eq("ratio") & frame["item"].str.contains("protocol=pixels threshold=0.5")]
ratios[["analyzer", "model", "weights", "size", "item", "value"]]

# %% [markdown]
# Every job also has a folder with its record, as the single commands write it. `find_results` reads all of them:

# %%
from replk_probe.collection import find_results

found = find_results(["results"])
for saved in found.erf:
    print(saved.record, f"{100 * saved.result.row('pixels', 0.5).ratio:.1f} %")

# %% [markdown]
# ## On a cluster
#
# The same file runs on a cluster of [Ray](https://docs.ray.io). Nodes can be added and removed while it runs:
#
# ```sh
# ray start --head --num-cpus 16 --include-dashboard=false      # on the first machine
# ray start --address HOST:6379 --num-cpus 16                   # on each of the others
# replk-probe sweep paper.toml --output /shared/results --engine ray --address auto
# replk-probe sweep --status /shared/results
# ```
#
# In Python, `sweep("paper.toml", "/shared/results", engine="ray", address="auto")` does the same.
# [Sweeps](../sweeps.md) has SLURM, the cloud, Kubernetes, object stores such as `s3://`, and what limits a sweep of
# thousands of models.
