"""A conflict set and a training split that this package draws itself: a controlled experiment on shape and texture.

Sixteen abstract classes, each with a shape and a texture. In the training split both cues agree, and either would do;
in the conflict set every shape meets every texture, and the answers tell which of the two a network went by.
Photographs leave open why a network prefers a cue: one may be rarer, smaller, fainter or harder. Here both are made
alike in every respect that can be made alike, and what remains is stated.

**Alike in both cues.** Both turn by any angle, uniformly. Both vary in size, by a factor of 1.4. The edge between
figure and background and the edges within the texture have the same contrast in every image: ink, ground and
background are at about equal distances from each other in RGB, and every such triple occurs in all six orders, so
that colour, brightness and polarity belong to no cue and to no class.

**Shapes** (``silhouettes.py``) have one area and are centred at their centroid; pointed ends apart none has a part
narrower than a period of the textures, or reaches farther than 1.5 radii of the disc of its area. They come in two
families of eight, of straight edges with right angles and of arcs, so that a piece of outline does not tell the class
but its arrangement does. There is no cropping and no occlusion.

**Textures** (``textures.py``) have one share of ink, a half, and one length of edges per area; only the arrangement
of the edges differs. Lines, lattices and random fields take part, at a phase, angle and polarity of their own in each
image.

**Nuisance** (``scenes.py``): size, position, angle, phase, palette and noise have one distribution for all classes
and are drawn independently of both cues. The room for positions is that of the farthest-reaching shape, whatever the
shape. The background is plain: it cannot be mistaken for a texture, and tells nothing.

**The conflict set is crossed**, so that nuisance is not only independent in expectation but balanced exactly: each of
the 80 silhouettes (16 shapes x 5 poses) is seen once with every texture, each of the 80 patches once with every
shape, and each of the 80 palettes once with every shape and once with every texture. A silhouette therefore tells
nothing of the texture, nor a patch of the shape, nor a colour of either.

**What is not controlled.** A shape has its length of outline, and outlines add to local statistics; narrow shapes cut
textures into smaller pieces. Which shape goes with which texture is fixed. Equal contrast and equal edges make the
cues comparable, not equally easy for every network: that is what the experiment measures. The tests state how well
each cue can be told by itself.

**Sizes.** A scene has no size in pixels; it is drawn at any. At 64 px, for small models, figures are 26 to 37 px wide
(as discs of their area), and periods 4.5 to 6.4 px.

Drawings are the same to the byte on every machine: random bits by counting, fields and blending in whole numbers, and
in between only operations that IEEE 754 rounds in one way.
"""

from __future__ import annotations

from .stimuli import CUES, SYNTHETIC_CATEGORIES, synthetic_images, synthetic_stimuli, synthetic_training

__all__ = ["CUES", "SYNTHETIC_CATEGORIES", "synthetic_images", "synthetic_stimuli", "synthetic_training"]
