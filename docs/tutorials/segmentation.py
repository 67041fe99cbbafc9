# %% [markdown]
# # A segmentation network
#
# A dense network has an output for every pixel. Which pixels does the score of one class at one position depend on?
# This tutorial measures LR-ASPP of torchvision, with random weights because nothing is downloaded here. Give
# `weights="pretrained"` to measure a trained network.

# %%
# %matplotlib inline
from replk_probe import create_model, measure_erf

model = create_model("torchvision:lraspp_mobilenet_v3_large", "random", seed=0)
result = measure_erf(model, images=4, size=96, target="logit:15")
result.plot().figure

# %% [markdown]
# `target="logit:15"` is the score of class 15, counted from 0, in the middle of the output, without a ReLU. Without a
# target, all features of a layer are added up after a ReLU. The record contains the target, so that both cannot be
# confused:

# %%
print(result.layer, result.feature_size, result.unusual_options)

# %% [markdown]
# ## Positions
#
# `position` chooses others than the middle: a row and column of the output, a grid, or random ones. At the border, the
# padding makes fields smaller.

# %%
from replk_probe.erf import draw_positions

grid = measure_erf(model, images=2, size=96, layer="backbone:high", position="grid:3x3")
draw_positions(grid)

# %% [markdown]
# `backbone:high` is the entry `high` of the dictionary that the module `backbone` returns; a message lists the entries
# if one is missing. The map of the result is the mean of the nine, each shifted so that the centers of the receptive
# fields coincide.

# %%
for place in grid.positions[:3]:
    ratio = next(row.ratio for row in place.ratios if (row.protocol, row.threshold) == ("pixels", 0.5))
    print(f"position {place.place}, {place.border_distance} from the border: {100 * ratio:.1f} % of the image")

# %% [markdown]
# ## Encoder and output
#
# Both are layers like any other, so that they can be compared on one scale.

# %%
from replk_probe.erf import draw_comparison

layers = {"low-level features": "backbone:low", "encoder": "backbone:high", "output": "forward:out"}
results = [measure_erf(model, images=4, size=96, layer=layer, name=name) for name, layer in layers.items()]
draw_comparison(results)

# %% [markdown]
# All three panels are marked RANDOM WEIGHTS. On the command line:
#
# ```sh
# replk-probe erf --model torchvision:lraspp_mobilenet_v3_large --weights random --images 4 --size 96 --target logit:15
# replk-probe erf --model torchvision:lraspp_mobilenet_v3_large --weights random --layer backbone:high --position 0,0
# ```
#
# [Segmentation, detection and other outputs](../erf.md#segmentation-detection-and-other-outputs) has detectors,
# restoration networks, and layers that are called several times.
