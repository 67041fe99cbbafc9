"""What the numbers of the page mean, with sources, and how to cite them."""

from __future__ import annotations

from dataclasses import dataclass

_REPLKNET = "Ding et al., CVPR 2022, arXiv:2203.06717"
_GEIRHOS = "Geirhos et al., ICLR 2019, arXiv:1811.12231"
_GEIRHOS_2021 = "Geirhos et al., NeurIPS 2021, arXiv:2106.07411"
_OWN = "this package"


@dataclass(frozen=True)
class Definition:
    """A term, its meaning, and its source."""

    term: str
    text: str
    source: str


ERF = (
    Definition(
        "Contribution score",
        "Gradient of the features at one position of a layer, summed over channels, with respect to each input pixel: "
        "negative values are set to zero, colors are added up, and the mean over images is taken.",
        f"{_REPLKNET}, section 4.2",
    ),
    Definition(
        "Area ratio",
        "Area of the smallest window with more than a threshold of the total contribution, as a share of the input.",
        f"{_REPLKNET}, Table 10",
    ),
    Definition(
        "Protocol paper",
        "Squares around the middle pixel, of log10(score + 1), as in the published script. It depends on the scale of "
        "the scores.",
        f"{_REPLKNET} and the script published with it",
    ),
    Definition("Protocol linear", "The same squares, of the scores themselves.", _OWN),
    Definition(
        "Protocol centred",
        "Squares around the center of the receptive field of the position, of the scores, clipped to the input.",
        _OWN,
    ),
    Definition("Protocol pixels", "The fewest pixels with more than the threshold, wherever they are.", _OWN),
    Definition(
        "Interval of a map",
        "95 % by the jackknife over blocks of images, with Student's t. It covers the choice of images only.",
        "Busing, Meijer and Van der Leeden, Statistics and Computing 9 (1999)",
    ),
    Definition(
        "Radial share",
        "Share of the total contribution within a distance of the center of the receptive field (encircled energy).",
        "Born and Wolf, Principles of Optics, section 8.8.4",
    ),
    Definition(
        "Effective area",
        "exp(entropy) of the contributions over the number of pixels: the area of a uniform map with the same entropy, "
        "as a share of the input.",
        "Shannon, Bell System Technical Journal 27 (1948)",
    ),
)
SHAPE_BIAS = (
    Definition(
        "Shape bias",
        "Decisions for the category of the shape divided by those for the shape or the texture, on stimuli whose cues "
        "conflict.",
        _GEIRHOS,
    ),
    Definition(
        "Category mean and median",
        "Mean and median over the categories of the shape bias on the stimuli of one shape; 95 % by the bootstrap over "
        "stimuli.",
        _OWN,
    ),
    Definition("Cue accuracy", "Decisions for the shape or the texture divided by all decisions.", _GEIRHOS),
    Definition(
        "Interval of a shape bias",
        "95 % by Wilson's score interval; for pooled humans by the bootstrap over observers.",
        "Wilson, JASA 22 (1927)",
    ),
    Definition(
        "Kappa",
        "Error consistency: Cohen's kappa of being correct or wrong on the same stimuli, mean over human observers.",
        "Geirhos, Meding and Wichmann, NeurIPS 2020, arXiv:2006.16736",
    ),
)
BEHAVIOUR = (
    Definition(
        "OOD accuracy",
        "Share of correct decisions, averaged over the conditions of the benchmark and over sets.",
        _GEIRHOS_2021,
    ),
    Definition(
        "Accuracy difference",
        "Squared difference of the accuracies of an observer and of a person in a condition, averaged over conditions, "
        "people and sets.",
        _GEIRHOS_2021,
    ),
    Definition(
        "Observed and error consistency",
        "Share of images on which an observer and a person are both right or both wrong, and Cohen's kappa of it, "
        "averaged likewise.",
        "Geirhos, Meding and Wichmann, NeurIPS 2020, arXiv:2006.16736",
    ),
    Definition(
        "Intervals of behaviour",
        "95 % by the bootstrap: over images, within each condition, and over the people an observer is compared with.",
        "Efron, Annals of Statistics 7 (1979)",
    ),
)
CUE_SCORES = (
    Definition(
        "Mean reciprocal rank",
        "Mean of 1 / rank over images with one cue each. The rank is that of the highest output among the right "
        "classes, in the outputs for all classes; 95 % by the bootstrap over the images of each label.",
        "Kim et al., 2026, arXiv:2603.10834",
    ),
)
KERNELS = (
    Definition(
        "Kernel magnitude",
        "Absolute weights, their batch norm folded in, aggregated over channels and divided by the maximum.",
        f"{_REPLKNET}, appendix",
    ),
    Definition("Center 3x3", "Share of the magnitude in the central 3 x 3 entries.", f"{_REPLKNET}, Fig. 6"),
    Definition(
        "Skeleton",
        "Share of the magnitude in the central row and column.",
        "Ding et al., ACNet, ICCV 2019, arXiv:1908.03930",
    ),
    Definition("50 / 90 / 99 % of the mass", "Sides of the smallest centered squares with these shares.", _OWN),
)
ATTRIBUTIONS = (
    Definition(
        "Attribution",
        "Contribution of every pixel to the score of a class, summed over colors. Numbers: those of absolute values.",
        "Kokhlikyan et al., Captum, arXiv:2009.07896",
    ),
    Definition(
        "Share in the window",
        "Share of the absolute attribution inside the window of the effective receptive field of the most attributed "
        "position, next to the share of the area, which a uniform attribution would have.",
        _OWN,
    ),
)
RELIANCE = (
    Definition(
        "Relative accuracy",
        "Accuracy under a suppression divided by the accuracy without one; 95 % by the bootstrap over images.",
        "Burgert et al., NeurIPS 2025, arXiv:2509.20234",
    ),
    Definition(
        "Relative accuracy of a cue", "Mean over the methods that suppress it of the mean over their strengths.", _OWN
    ),
)
BENCH = (
    Definition(
        "Speed-up",
        "Shortest time of torch's fastest variant divided by the shortest time of this package, in the same run.",
        _OWN,
    ),
)


@dataclass(frozen=True)
class Citation:
    """A work to cite."""

    authors: str
    title: str
    where: str
    arxiv: str


# The entries of CITATION.cff, which is not part of an installed package.
SOFTWARE = Citation("The replk-probe developers", "replk-probe", "software", "")
PAPERS = (
    Citation(
        "Ding, Zhang, Han and Ding",
        "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs",
        "CVPR 2022",
        "2203.06717",
    ),
    Citation(
        "Geirhos, Rubisch, Michaelis, Bethge, Wichmann and Brendel",
        "ImageNet-trained CNNs are biased towards texture; increasing shape bias improves accuracy and robustness",
        "ICLR 2019",
        "1811.12231",
    ),
    Citation(
        "Geirhos, Narayanappa, Mitzkus, Thieringer, Bethge, Wichmann and Brendel",
        "Partial success in closing the gap between human and machine vision",
        "NeurIPS 2021",
        "2106.07411",
    ),
    Citation(
        "Liu, Chen, Chen, Chen, Xiao, Wu, K\u00e4rkk\u00e4inen, Pechenizkiy, Mocanu and Wang",
        "More ConvNets in the 2020s: Scaling up Kernels Beyond 51x51 using Sparsity",
        "ICLR 2023",
        "2207.03620",
    ),
)
