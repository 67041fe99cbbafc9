"""A generated conflict set and training split: a controlled experiment on shape and texture.

There are sixteen abstract classes, each with a shape and a texture. In the training split the texture always belongs to
the label, and the shape with a probability that can be chosen, the validity of the shape. In the conflict set every
shape is combined with every texture, and the decisions show which cue a network uses. With photographs, a network may
prefer a cue because the other one is rarer, smaller, fainter, harder or less reliable. Here both cues are equal in many
respects, the remaining differences are listed, and the validity of the shape moves the preference.

**Names.** A class has the name of its shape, which is the name that tables by category show. A stimulus named
``heart1-zed4.png`` has the shape of the class ``heart`` and the texture of the class ``zed``: a heart on scales.
``CUES`` has the shape and the texture of each class.

**Equal for both cues.** Both are rotated by up to 20 degrees in either direction and vary in size. Colors are drawn
independently of both cues and of the class, and ink and ground occur in both orders, so color, brightness and polarity
are uninformative.

**Shapes** (``silhouettes.py``) have the same area and are centered at their centroid; none extends farther than 1.5
radii of a disc of its area. They form two families of eight, with straight edges and right angles or with arcs, so the
class depends on the arrangement of the outline, not on a single piece of it. There is no cropping and no occlusion.

**Textures** (``textures.py``) have the same share of ink, one half. They are lines, lattices and random fields, with a
random phase, angle and polarity in each image. Relative to their scale, they have the same length of edges per area.
They have four scales, assigned so that similar arrangements differ in scale.

**Made so that textures are learned about as early as shapes.** With textures of a single scale, rotations by any angle
and equal contrast of all edges, shapes are learned long before textures, and every network has a shape bias above 98 %.
Hence the four scales and the small rotations, and the background is moved toward the mean of ink and ground, so that
the outline has 0.8 times the contrast.

**Nuisance variables** (``scenes.py``): size, position, angle, phase, palette and noise have the same distribution for
all classes and are drawn independently of both cues. The range of positions is that of the farthest-reaching shape for
every shape. The background is uniform and carries no information.

**The conflict set is crossed**, so that nuisance variables are not only independent in expectation but exactly
balanced: each of the 80 silhouettes (16 shapes x 5 poses) occurs once with every texture, each of the 80 patches once
with every shape, and each of the 80 palettes once with every shape and once with every texture. A silhouette therefore
carries no information about the texture, a patch none about the shape, and a color none about either.

**Not controlled.** Outlines differ in length and contribute to local statistics; narrow shapes cut textures into
smaller pieces, coarse ones more so. The pairing of shapes and textures in the classes is fixed. The cues are not
equally easy for every network: that difference is part of what the experiment measures. The tests state how well each
cue can be classified by itself.

**Sizes.** A scene can be drawn at any size in pixels. At 64 px, the size of the small models, figures are 26 to 37 px
wide (as discs of their area), and periods 4.5 to 12.6 px.

Images are identical to the byte on every machine: random bits are computed by a counter-based generator, fields and
blending use integers, and all other operations are rounded uniquely by IEEE 754.
"""

from __future__ import annotations

from .stimuli import CUES, SYNTHETIC_CATEGORIES, synthetic_images, synthetic_stimuli, synthetic_training

__all__ = ["CUES", "SYNTHETIC_CATEGORIES", "synthetic_images", "synthetic_stimuli", "synthetic_training"]
