# %% [markdown]
# # First effective receptive field
#
# The effective receptive field (ERF) shows which pixels of the input a feature of a network depends on, and how much.
# This tutorial measures the ERF of a small network in a few seconds, and compares it with that of another one.
#
# The network is embedded in the package. It was trained on synthetic images of shapes and textures, so that its numbers
# say nothing about networks trained on photographs. Any name of timm works in its place, for instance `resnet50`, and a
# folder of photographs in place of the generated images.

# %%
# %matplotlib inline
from replk_probe import create_model, measure_erf

model = create_model("replknet_micro_k13", "pretrained")
result = measure_erf(model, images=8, size=96)
result

# %% [markdown]
# A notebook shows a result as a table and a figure. The map is the gradient of the features in the middle of the last
# feature map with respect to the image: negative values are set to zero, colors are added up, and the mean over the
# images is taken. The table gives the *area ratio*: the part of the image that holds a given share of the contribution.
# It depends on the shape of the window, so that every ratio is reported with the name of its protocol.

# %%
for protocol in ("pixels", "centred", "linear", "paper"):
    row = result.row(protocol, 0.5)
    low, high = row.ci95
    print(f"{protocol:8} {100 * row.ratio:5.1f} %  (95 % interval {100 * low:.1f} to {100 * high:.1f})")

# %% [markdown]
# `pixels` is the smallest set of pixels that holds half of the contribution, at any position. `centred` is the smallest
# square around the center of the receptive field. `paper` reproduces the script that was published with RepLKNet, and
# is meant for comparison with published tables only, because it depends on the scale of the gradient.
#
# ## What training changes
#
# The same network with random weights is a useful comparison: it shows what the architecture alone does.

# %%
from replk_probe.erf import draw_comparison

untrained = create_model("replknet_micro_k13", "random", seed=0)
random_result = measure_erf(untrained, images=8, size=96, name="replknet_micro_k13, untrained")
draw_comparison([result, random_result])

# %% [markdown]
# The panel of the network without training is marked RANDOM WEIGHTS, as are all tables and records of such networks.
#
# ## Another network
#
# `replknet_micro_k3` has kernels of 3x3 instead of 13x13 in otherwise the same architecture. `compare_results` lists
# the differences with their intervals, and whether an interval excludes zero.

# %%
from replk_probe.comparison import compare_results, draw_differences

small = measure_erf(create_model("replknet_micro_k3", "pretrained"), images=8, size=96)
draw_differences(compare_results(result, small))

# %% [markdown]
# ## Is the image large enough?
#
# If the field is larger than the image, the numbers are those of the image. A result states this in its notes:

# %%
print("\n".join(result.notes) or "no notes")

# %% [markdown]
# ## The same on the command line
#
# ```sh
# replk-probe erf --model replknet_micro_k13 --model replknet_micro_k3 --images 8 --size 96
# ```
#
# This writes the figures, the map and a record with full provenance to `replk-probe-out/erf/`. Continue with [your own
# backbone](own_backbone.py), or with [reading a result](reading_a_result.py).
