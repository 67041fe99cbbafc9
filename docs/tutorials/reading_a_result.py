# %% [markdown]
# # Reading a result
#
# All measurements return a result: a frozen object with numbers, intervals, and the provenance to reproduce them. This
# tutorial reads one from top to bottom. [Definitions](../definitions.md) has the formula of every number.

# %%
# %matplotlib inline
from replk_probe import create_model, measure_erf

model = create_model("replknet_micro_k13", "random", seed=0)
result = measure_erf(model, images=20, size=96)
print(result)

# %% [markdown]
# ## The map and its ratios
#
# `contribution` has one score for each input pixel, in arbitrary units. `ratios` has one row for each protocol and
# threshold, with the side of the window in pixels and its area as a fraction of the image.

# %%
print(result.contribution.shape, result.contribution.dtype)
result.row("centred", 0.5)

# %% [markdown]
# ## Intervals
#
# The 95 % intervals are computed by a jackknife over blocks of images. They answer one question: how different would
# the number be with other images of the same kind? They do not cover other weights, another seed of the training, or
# other kinds of images. `convergence` shows the numbers as functions of the number of images, and the figure their
# bands.

# %%
from replk_probe.erf import draw_convergence

draw_convergence(result)

# %% [markdown]
# ## Further numbers
#
# `numbers` describes the map as a distribution over pixels: its center, its spread, its effective area, and a fitted
# Gaussian.

# %%
numbers = result.numbers
low, high = numbers.effective_area_ci95
print(f"effective area: {numbers.effective_area:.1%} of the image, 95 % interval {low:.1%} to {high:.1%}")
print("standard deviation in pixels: {:.1f} (y), {:.1f} (x)".format(*numbers.standard_deviation))
if numbers.gaussian is not None:
    print(f"R squared of the Gaussian: {numbers.gaussian.r_squared:.2f}")

# %% [markdown]
# ## Tables
#
# `to_dataframe` has one row for each protocol and threshold, in the columns of `erf.csv`; `to_latex` returns a table
# for a paper.

# %%
result.to_dataframe()[["model", "weights", "protocol", "threshold", "side", "ratio", "ci95_low", "ci95_high"]].head(8)

# %%
print("\n".join(result.to_latex().splitlines()[:8]))

# %% [markdown]
# ## Figures
#
# `plot` draws on any Axes, so that a figure of yours can contain it. `replk-probe erf --style paper` writes figures in
# the column widths of common templates.

# %%
from matplotlib import pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.8), layout="constrained")
result.plot(left, protocol="centred")
right.plot(*zip(*numbers.radial_share, strict=True))
right.set(xlabel="radius (pixels)", ylabel="share of the contribution")
plt.show()

# %% [markdown]
# ## Where the numbers come from
#
# `run` is the provenance: the weights and their digest, the images, the options, the precision, the software.

# %%
run = result.run
print(run.model, "|", run.weights.label, "|", run.image_source, "|", run.precision, "|", run.backend)
print({name: run.versions[name] for name in ("replk_probe", "torch", "timm") if name in run.versions})

# %% [markdown]
# Random weights are named in the record, in every table and in every figure.
#
# ## Files
#
# `save` writes `erf.json`, `erf.npz` and `erf.csv`; equal results give equal bytes. A loaded result is equal to the one
# that was saved.

# %%
from pathlib import Path

from replk_probe import ErfResult

result.save("saved")
print(sorted(path.name for path in Path("saved").iterdir()), ErfResult.load("saved") == result)

# %% [markdown]
# ## One page for co-authors
#
# `write_report` collects results of all analyzers in one HTML file that needs neither the package nor a connection:

# %%
from replk_probe.html_report import write_report

write_report([result], "report.html", title="A small network")
print(f"{Path('report.html').stat().st_size / 1e3:.0f} kB")
