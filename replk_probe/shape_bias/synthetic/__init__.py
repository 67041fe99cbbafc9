"""A generated conflict set and training split: a controlled experiment on shape and texture.

There are sixteen abstract classes, each with a shape and a texture. In the training split both cues agree, and either
suffices; in the conflict set every shape is combined with every texture, and the decisions show which cue a network
uses. With photographs, a network may prefer a cue because the other one is rarer, smaller, fainter or harder. Here
both cues are equal in as many respects as possible, and the remaining differences are listed.

**Equal for both cues.** Both are rotated by a uniformly distributed angle and vary in size by a factor of 1.4. The edge
between figure and background and the edges within the texture have the same contrast in every image: ink, ground and
background are at about equal distances from each other in RGB, and every such triple occurs in all six orders, so
color, brightness and polarity are independent of both cues and of the class.

**Shapes** (``silhouettes.py``) have the same area and are centered at their centroid. Except for pointed ends, none has
a part narrower than a period of the textures, or extends farther than 1.5 radii of a disc of its area. They form two
families of eight, with straight edges and right angles or with arcs, so the class depends on the arrangement of the
outline, not on a single piece of it. There is no cropping and no occlusion.

**Textures** (``textures.py``) have the same share of ink, one half, and the same length of edges per area; only the
arrangement of the edges differs. They are lines, lattices and random fields, with a random phase, angle and polarity
in each image.

**Nuisance variables** (``scenes.py``): size, position, angle, phase, palette and noise have the same distribution for
all classes and are drawn independently of both cues. The range of positions is that of the farthest-reaching shape for
every shape. The background is uniform and carries no information.

**The conflict set is crossed**, so that nuisance variables are not only independent in expectation but exactly
balanced: each of the 80 silhouettes (16 shapes x 5 poses) occurs once with every texture, each of the 80 patches once
with every shape, and each of the 80 palettes once with every shape and once with every texture. A silhouette therefore
carries no information about the texture, a patch none about the shape, and a color none about either.

**Not controlled.** Outlines differ in length and contribute to local statistics; narrow shapes cut textures into
smaller pieces. The pairing of shapes and textures in the classes is fixed. Equal contrast and equal edge length make
the cues comparable, but not equally easy for every network: that difference is what the experiment measures. The tests
state how well each cue can be classified by itself.

**Sizes.** A scene can be drawn at any size in pixels. At 64 px, the size of the small models, figures are 26 to 37 px
wide (as discs of their area), and periods 4.5 to 6.4 px.

Images are identical to the byte on every machine: random bits are computed by a counter-based generator, fields and
blending use integers, and all other operations are rounded uniquely by IEEE 754.
"""

from __future__ import annotations

from .stimuli import CUES, SYNTHETIC_CATEGORIES, synthetic_images, synthetic_stimuli, synthetic_training

__all__ = ["CUES", "SYNTHETIC_CATEGORIES", "synthetic_images", "synthetic_stimuli", "synthetic_training"]
