# %% [markdown]
# # Your own backbone
#
# Any `nn.Module` can be measured, without changing its code. This tutorial measures a network that is defined in a
# file, one of its layers, and a checkpoint of it.

# %%
# %%writefile backbone.py
import torch
from torch import nn


class Block(nn.Module):
    """A depthwise convolution with a large kernel and a small one in parallel, and two pointwise convolutions."""

    def __init__(self, width, kernel):
        super().__init__()
        self.large = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.small = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x):
        return x + self.mix(self.norm(self.large(x) + self.small(x)))


class Backbone(nn.Module):
    def __init__(self, width=24, kernel=11, depths=(2, 2)):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.stage1 = nn.Sequential(*(Block(width, kernel) for _ in range(depths[0])))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.stage2 = nn.Sequential(*(Block(2 * width, kernel) for _ in range(depths[1])))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(x.mean((2, 3)))


def build():
    return Backbone()


# %% [markdown]
# ## A module
#
# A module is measured with the weights that it has, here those of its initialization. The package cannot know whether a
# module was trained: the record states that the origin of the weights is unknown. Models that are created by name, as
# in the last section, have a record of their weights.

# %%
# %matplotlib inline
import torch
from backbone import Backbone

from replk_probe import measure_erf

torch.manual_seed(0)
model = Backbone().eval()
result = measure_erf(model, images=6, size=96)
print(result.layer, result.feature_size, result.run.weights.label)
result.plot().figure

# %% [markdown]
# Without a layer, the map that enters the average over positions is measured, here the output of `stage2`. It was found
# by following the forward pass. The model is not changed: parallel branches are merged, and batch norms folded, in a
# copy.
#
# ## One of its layers
#
# A layer is a path as in `model.get_submodule`, or the module itself.

# %%
from replk_probe.erf import draw_comparison

layers = ["stage1.0", "stage1", "stage2"]
results = [measure_erf(model, images=6, size=96, layer=layer, name=layer) for layer in layers]
draw_comparison(results)

# %% [markdown]
# The field grows from layer to layer. `theoretical_rf` is the side of the theoretical receptive field in pixels, which
# is computed layer by layer and only depends on the architecture:

# %%
for one in results:
    effective = one.row("pixels", 0.5).side
    print(f"{one.layer:9} theoretical {one.theoretical_rf} px, half of the contribution in {effective:.0f} px")

# %% [markdown]
# ## A checkpoint
#
# Training code saves weights in many ways: in an entry such as `model` or `state_dict`, with a prefix such as
# `module.`, with other entries for the optimizer. They are found by comparing names and shapes with those of the
# network. `backbone.py:build` names the function that builds it, as `--model` does on the command line.

# %%
from replk_probe import create_model

state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
torch.save({"epoch": 3, "model": state, "optimizer": {}}, "checkpoint.pth")
loaded = create_model("backbone.py:build", "checkpoint.pth")
again = measure_erf(loaded, images=6, size=96)
print(again.run.weights.label, "- same map:", bool((again.contribution == result.contribution).all()))

# %% [markdown]
# A record of a checkpoint contains the name and the SHA-256 of the file. Files with code of other classes are read
# without executing it; the file of the model, however, is executed.
#
# ## Its kernels
#
# `measure_kernels` shows the large kernel, the small one, and their sum. The small branch was found in the forward
# pass, whatever it is called.

# %%
from replk_probe import measure_kernels

kernels = measure_kernels(loaded, "stage1.0", variant="all")
kernels.to_dataframe()[["layer", "variant", "kernel_height", "kernel_width", "centre3x3_share"]]

# %% [markdown]
# On the command line:
#
# ```sh
# replk-probe erf --model backbone.py:build --weights checkpoint.pth --layer stage1 --size 96 --images 6
# replk-probe kernels --model backbone.py:build --weights checkpoint.pth --variant all
# ```
#
# [Networks of other packages](../networks.md) describes checkouts, factories with arguments, and how branches are
# merged.
