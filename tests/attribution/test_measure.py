"""Attributions with known values, compared with captum and with the effective receptive field."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from replk_probe import measure_attribution, measure_erf
from replk_probe.attribution.config import METHODS, AttributionConfig
from replk_probe.attribution.plan import AttributionPlan, plan_attribution
from replk_probe.attribution.result import AttributionResult
from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.runtime.parts import part_folders
from replk_probe.runtime.provenance import WeightsInfo

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Linear(nn.Module):
    """Class scores that are linear in the pixels."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 3, 16, 16, generator=torch.Generator().manual_seed(2)))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", images, self.weight) + 0.5


class Cnn(nn.Module):
    """A small network whose features have a chosen layout."""

    def __init__(self, form: str = "map") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu = nn.Conv2d(3, 6, 4, stride=4), nn.ReLU()
        self.second, self.head, self.form = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 4), form
        self.layer, self.prefix = nn.Identity(), nn.Parameter(torch.randn(1, 1, 5))

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.second(self.relu(self.first(images))))
        if self.form == "map":
            return self.head(self.layer(x).mean((2, 3)))
        if self.form == "NHWC":
            return self.head(self.layer(x.permute(0, 2, 3, 1)).mean((1, 2)))
        if self.form == "tokens":
            tokens = x.flatten(2).transpose(1, 2)
            return self.head(self.layer(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1))[:, 1:].mean(1))
        if self.form == "tuple":
            return self.head(self.layer((x, {"other": x.mean()}))[0].mean((2, 3)))
        if self.form == "operation":
            return self.head((torch.tanh(x) * 1.0).mean((2, 3)))
        raise AssertionError(self.form)


class ClassToken(nn.Module):
    """Tokens of which only the first one is used after the last block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        layers = [nn.TransformerEncoderLayer(8, 2, 8, dropout=0, batch_first=True) for _ in range(2)]
        self.blocks, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward_features(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.forward_features(images)[:, 0])


def attribute(model: nn.Module, method: str, **options) -> AttributionResult:
    return measure_attribution(model, IMAGES, method=method, device="cpu", **options)


def test_a_linear_network_has_known_attributions() -> None:
    model = Linear()
    with torch.no_grad():
        scores = model(IMAGES)
    weighted = (model.weight[2] * IMAGES).sum(1).detach().numpy()
    for method in ("input-x-gradient", "integrated-gradients"):
        result = attribute(model, method, target=2)
        # The weights of the quadrature sum to 1 up to the rounding of float32.
        np.testing.assert_allclose(result.maps, weighted, rtol=1e-4, atol=1e-5)
    for image, score in zip(result.images, scores, strict=True):
        assert image.total == pytest.approx(float(score[2]) - 0.5, rel=1e-4)
        assert image.score == pytest.approx(float(score[2])) and image.predicted == int(score.argmax())
        # An error of 1e-6 in scores of about 60 is one of 6e-5 in their exponentials.
        assert image.probability == pytest.approx(float(score.softmax(0)[2]), rel=1e-4)
        assert image.position is None and image.windows == () and image.target == 2
    saliency = attribute(model, "saliency", target=2)
    np.testing.assert_allclose(saliency.maps[0], model.weight[2].abs().sum(0).detach().numpy(), rtol=1e-6)
    assert saliency.layer is None and "There are no windows" in saliency.notes[0]


def test_occlusion_of_a_network_that_reads_one_pixel() -> None:
    class OnePixel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images[:, 0, 5, 9], images[:, 1, 5, 9] - 9], 1)

    result = attribute(OnePixel(), "occlusion")
    for index, image in enumerate(result.images):
        # One window of 16 x 16 pixels is a pixel, and the baseline is zero.
        expected = np.zeros((16, 16), np.float32)
        expected[5, 9] = float(IMAGES[index, 0, 5, 9])
        np.testing.assert_array_equal(result.maps[index], expected)
        assert (image.target, image.peak, image.entropy_bits) == (0, (5, 9), 0.0)
        assert image.effective_area == pytest.approx(1 / 256) and image.total == image.score


@pytest.mark.filterwarnings("ignore:Setting")
def test_captum_called_directly_gives_the_same_maps() -> None:
    model = Cnn().eval()
    image = IMAGES[:1].clone().requires_grad_(True)
    expected = {
        "saliency": captum.attr.Saliency(model).attribute(image, 3),
        "input-x-gradient": captum.attr.InputXGradient(model).attribute(image, 3),
        "integrated-gradients": captum.attr.IntegratedGradients(model).attribute(image, target=3, n_steps=50),
        "guided-backprop": captum.attr.GuidedBackprop(model).attribute(image, 3),
        "deconvolution": captum.attr.Deconvolution(model).attribute(image, 3),
        "occlusion": captum.attr.Occlusion(model).attribute(image, (3, 1, 1), strides=(3, 1, 1), target=3)[:, :1],
    }
    torch.manual_seed(7)
    expected["smooth-grad"] = captum.attr.NoiseTunnel(captum.attr.Saliency(model)).attribute(
        image, target=3, nt_samples=25, stdevs=0.15 * float(IMAGES[0].max() - IMAGES[0].min()), nt_samples_batch_size=1,
        abs=False,
    )  # fmt: skip
    cam = captum.attr.LayerGradCam(model, model.layer).attribute(image, 3, relu_attributions=True)
    expected["grad-cam"] = captum.attr.LayerAttribution.interpolate(cam, (16, 16), "bilinear")
    assert {*expected} == {*METHODS}
    for method, values in expected.items():
        found = attribute(model, method, target=3, seed=7, layer="layer").maps[0]
        np.testing.assert_allclose(found, values[0].sum(0).detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=method)


def test_grad_cam_by_hand() -> None:
    model = Cnn()
    result = attribute(model, "grad-cam", target=1)
    with torch.no_grad():
        features = torch.tanh(model.second(torch.relu(model.first(IMAGES))))
        # The gradient of a mean over 4 x 4 positions is the same at each.
        cam = torch.einsum("nchw,c->nhw", features, model.head.weight[1] / 16).relu()
        expected = nn.functional.interpolate(cam[:, None], (16, 16), mode="bilinear")[:, 0]
    np.testing.assert_allclose(result.maps, expected.numpy(), rtol=1e-4, atol=1e-7)
    assert result.run.config["map of grad-cam"] == [4, 4]


@pytest.mark.parametrize("form", ["NHWC", "tokens", "tuple"])
def test_grad_cam_does_not_depend_on_the_layout(form: str) -> None:
    layer = "layer:0" if form == "tuple" else "layer"
    expected = attribute(Cnn(), "grad-cam", target=0, layer="layer")
    found = attribute(Cnn(form), "grad-cam", target=0, layer=layer)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-4, atol=1e-7)


def test_grad_cam_of_the_result_of_an_operation() -> None:
    model = Cnn("operation")
    result = attribute(model, "grad-cam", target=0)
    assert "operation" in str(result.layer)
    with torch.no_grad():
        features = torch.tanh(torch.tanh(model.second(torch.relu(model.first(IMAGES)))))
        cam = torch.einsum("nchw,c->nhw", features, model.head.weight[0] / 16).relu()
    expected = nn.functional.interpolate(cam[:, None], (16, 16), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(result.maps, expected, rtol=1e-4, atol=1e-7)


def test_grad_cam_of_a_class_token_is_computed_before_the_last_block() -> None:
    model = ClassToken()
    result = attribute(model, "grad-cam", target=0)
    assert result.layer == "norm (input)" and result.run.config["layer of grad-cam"] == "blocks.1 (input)"
    assert any("class token" in note for note in result.notes) and result.maps.any()
    chosen = attribute(model, "grad-cam", target=0, layer="norm")
    assert not chosen.maps.any() and any("an earlier layer" in note for note in chosen.notes)
    assert chosen.images[0].entropy_bits is None and chosen.images[0].windows == ()


class Shifted(nn.Module):
    """A convolution with a kernel of ones, 3 x 3, and the score of one of its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 1, 3, padding=1, bias=False), nn.ReLU()
        nn.init.ones_(self.conv.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).flatten(1)[:, [5 * 16 + 9, 0]]


@pytest.mark.parametrize("saved", [False, True])
def test_all_attribution_of_one_position_is_in_its_window(saved: bool, tmp_path: Path) -> None:
    model, images = Shifted(), torch.ones(1, 3, 16, 16)
    erf = None
    if saved:
        measure_erf(model, images, layer="conv", device="cpu").save(tmp_path)
        erf = tmp_path
    for target, place, rows, columns in ((0, (5, 9), (4, 7), (8, 11)), (1, (0, 0), (0, 2), (0, 2))):
        result = measure_attribution(model, images, erf, layer="conv", target=target, thresholds=[0.99], device="cpu")
        (image,), (window,) = result.images, result.images[0].windows
        # All pixels have the same saliency; the position in the middle of the first cell of equal means is the first.
        assert image.effective_area == pytest.approx((rows[1] - rows[0]) * (columns[1] - columns[0]) / 256)
        y, x = place if target == 1 else (rows[0], columns[0])
        assert image.position == (y, x) == image.center
        assert (window.top, window.bottom) == (max(y - 1, 0), y + 2)
        assert window.area == (window.bottom - window.top) * (window.right - window.left) / 256
        # The window around the upper left corner of the square of 3 x 3 pixels has 2 x 2 of them.
        assert window.share == pytest.approx(1.0 if target == 1 else 4 / 9)
        assert result.erf == ("Shifted" if saved else "image")


def test_the_window_around_the_maximum_holds_all_of_it() -> None:
    class Weighted(Shifted):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.conv.weight[:, :, 1, 1] = 2

    result = measure_attribution(Weighted(), torch.ones(1, 3, 16, 16), layer="conv", target=0, device="cpu")
    image, windows = result.images[0], {window.threshold: window for window in result.images[0].windows}
    # Ten units of contribution in 3 x 3 pixels, two of them in the middle.
    assert image.position == (5, 9) and windows[0.99].share == 1.0
    assert windows[0.2].area == windows[0.99].area == 9 / 256
    assert image.entropy_bits == pytest.approx(8 * 0.1 * np.log2(10) + 0.2 * np.log2(5))


def test_the_effective_receptive_field_must_be_that_of_the_same_layer_and_model() -> None:
    model = Shifted()
    erf = measure_erf(model, torch.ones(1, 3, 24, 24), layer="conv", device="cpu")
    options = {"method": "saliency", "target": 0, "device": "cpu"}
    found = measure_attribution(model, IMAGES, erf, layer="conv", **options)
    assert any("24x24 px" in note for note in found.notes)
    with pytest.raises(InvalidInputError, match="Its inputs have 1 axes"):
        sequence = dataclasses.replace(
            erf, contribution=erf.contribution[0], input_size=(24,), feature_size=(24,), center=(12.0,), numbers=None
        )
        measure_attribution(model, IMAGES, sequence, layer="conv", **options)
    other = dataclasses.replace(erf, run=dataclasses.replace(erf.run, weights=WeightsInfo("file:other.pth")))
    found = measure_attribution(model, IMAGES, other, layer="conv", **options)
    assert any("with other weights: file:other.pth" in note for note in found.notes)
    with pytest.raises(InvalidInputError, match="is that of model 'Shifted', but the attribution that of 'other'"):
        measure_attribution(model, IMAGES, erf, layer="conv", name="other", **options)
    with pytest.raises(InvalidInputError, match="is that of layer 'conv'"):
        measure_attribution(nn.Sequential(model.conv, model.relu, nn.Flatten()), IMAGES, erf, layer="1",
                            name="Shifted", **options)  # fmt: skip
    with pytest.raises(InvalidInputError, match="Expected erf as an ErfResult"):
        measure_attribution(model, IMAGES, 5, **options)


def test_the_model_is_unchanged() -> None:
    model = ClassToken().train().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    attribute(model, "grad-cam")
    assert all(module.training for module in model.modules())
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks) and "forward_features" not in vars(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        again = attribute(model, "saliency")
    assert again == attribute(model, "saliency") and IMAGES.grad is None


def test_classes_have_names() -> None:
    model = Linear()
    model.class_names = ["cat", "dog", "eel", "dog"]
    result = attribute(model, "saliency", target="EEL")
    assert (result.images[0].target, result.images[0].target_label) == (2, "eel (2)")
    for target, says in (
        ("dog", "Classes 1 and 3 have this name"), ("cart", r"no class of this name \(similar: cat\)"),
        (4, "There is no class 4. Linear has 4 classes, which count from 0. Choose a class up to 3"), ("9", "class 9"),
        (-1, "The target -1 is invalid"), (1.5, "The target 1.5"), (True, "The target True"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=says):
            attribute(model, "saliency", target=target)
    with pytest.raises(InvalidInputError, match="Linear has no class of this name"):
        attribute(Linear(1000), "saliency", target="nonsense")
    assert attribute(Linear(1000), "saliency", target="tench").images[0].target == 0
    labeled = Linear(2)
    labeled.config = type("Config", (), {"id2label": {0: "no", 1: "yes"}})
    assert attribute(labeled, "saliency", target="yes").images[0].target == 1


def test_files_and_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 10), "red").save(tmp_path / folder / "x.png")
    model = Linear()
    options = {"size": 16, "device": "cpu", "mean": 0.5, "std": 0.5}
    one = measure_attribution(model, tmp_path / "a" / "x.png", **options)
    assert [image.id for image in one.images] == ["x.png"] and one.run.image_source == "files"
    assert one.pictures.shape == (1, 16, 16, 3) and (one.pictures[0, 0, 0] == (255, 0, 0)).all()
    both = measure_attribution(model, [tmp_path / "a", tmp_path / "b"], **options)
    assert [image.id for image in both.images] == [str(tmp_path / folder / "x.png") for folder in ("a", "b")]
    assert (both.maps[0] == one.maps[0]).all()
    # A tensor has the pictures of its values.
    given = (torch.tensor(one.pictures).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    tensor = measure_attribution(model, given, device="cpu", mean=0.5, std=0.5)
    assert (tensor.pictures == one.pictures).all() and (tensor.maps == one.maps).all()


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ("none.jpg", "Cannot use image none.jpg. It is unreadable: no such file"),
        ([], "There are no images"),
        (5, "Expected images as files, a folder or a tensor, but got an object of type int"),
        (["a.jpg", 5], "object of type list"),
        (torch.zeros(3, 16, 16), r"Expected normalized images as a floating-point tensor"),
        (torch.full((1, 3, 16, 16), float("nan")), "values that are not finite"),
    ],
)
def test_images_that_cannot_be_used(images, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        measure_attribution(Linear(), images, size=16, device="cpu")


def test_networks_that_cannot_be_attributed() -> None:
    with pytest.raises(InvalidInputError, match="A decision requires one number per class"):
        attribute(nn.Conv2d(3, 4, 3), "saliency")
    with pytest.raises(InvalidInputError, match="Linear has none: the result would be the gradient"):
        attribute(Linear(), "guided-backprop")
    with pytest.raises(InvalidInputError, match=r"Unknown method 'lime'\. Choose from saliency"):
        attribute(Linear(), "lime")
    with pytest.raises(InvalidInputError, match="no map"):
        attribute(Linear(), "grad-cam")

    class Constant(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach())

    with pytest.raises(InvalidInputError, match="have no gradient with respect to the image"):
        attribute(Constant(), "saliency")


def test_a_network_that_returns_probabilities() -> None:
    result = attribute(nn.Sequential(Linear(), nn.Softmax(1)), "saliency")
    assert result.images[0].score == pytest.approx(result.images[0].probability)
    assert any("probabilities" in note for note in result.notes)


def test_a_result_is_read_back(tmp_path: Path) -> None:
    result = attribute(Cnn(), "saliency")
    result.save(tmp_path)
    assert AttributionResult.load(tmp_path) == result
    assert result.index_of("tensor-0001") == result.index_of(-1) == 1
    for wrong in (2, "tensor-0002", None, 0.0):
        with pytest.raises(InvalidInputError, match=r"There is no image .*This result has 2"):
            result.plot(image=wrong)
    assert len((tmp_path / "attribution.csv").read_text().splitlines()) == 1 + 2 * 4
    content = (tmp_path / "attribution.npz").read_bytes()
    (tmp_path / "attribution.npz").write_bytes(content[:-10])
    with pytest.raises(InvalidInputError, match=r"attribution\.npz"):
        AttributionResult.load(tmp_path)


def test_the_options_of_the_methods_reach_captum() -> None:
    model = Cnn().eval()
    image = IMAGES[:1].clone().requires_grad_(True)
    # Tensors have the normalization of the model, here that of ImageNet.
    white = ((1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))[:, None, None]
    white = white.expand(1, 3, 16, 16)
    captum_ig, captum_occlusion = captum.attr.IntegratedGradients(model), captum.attr.Occlusion(model)
    expected = captum_ig.attribute(image, white, 3, n_steps=7)
    found = attribute(model, "integrated-gradients", target=3, steps=7, baseline="white")
    np.testing.assert_allclose(found.maps[0], expected[0].sum(0).detach().numpy(), rtol=1e-4, atol=1e-6)
    assert (found.run.config["n_steps"], found.run.config["baselines"]) == (7, "white")
    expected = captum_occlusion.attribute(image, (3, 5, 4), strides=(3, 2, 3), baselines=white, target=3)[:, :1]
    found = attribute(model, "occlusion", target=3, window=(5, 4), stride=(2, 3), baseline="white")
    np.testing.assert_allclose(found.maps[0], expected[0, 0].detach().numpy(), rtol=1e-4, atol=1e-6)
    assert (found.run.config["window"], found.run.config["stride"]) == ([5, 4], [2, 3])
    assert "windows" not in found.run.config
    torch.manual_seed(0)
    expected = captum.attr.NoiseTunnel(captum.attr.Saliency(model)).attribute(
        image, target=3, nt_samples=4, stdevs=0.3 * float(IMAGES[0].max() - IMAGES[0].min()), nt_samples_batch_size=1,
        abs=False,
    )  # fmt: skip
    found = attribute(model, "smooth-grad", target=3, samples=4, noise=0.3)
    np.testing.assert_allclose(found.maps[0], expected[0].sum(0).detach().numpy(), rtol=1e-4, atol=1e-6)
    assert (found.run.config["nt_samples"], found.run.config["noise"]) == (4, 0.3)


def test_options_that_equal_the_usual_ones_change_nothing() -> None:
    for method, options in (
        ("integrated-gradients", {"steps": 50, "baseline": "mean"}),
        ("smooth-grad", {"samples": 25, "noise": 0.15}),
        ("occlusion", {"window": 1, "stride": 1}),
    ):
        assert (attribute(Linear(), method, **options).maps == attribute(Linear(), method).maps).all()


def test_overlapping_windows_have_the_mean_of_their_decreases() -> None:
    class OnePixel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images[:, 0, 5, 9], images[:, 1, 5, 9] - 9], 1)

    result = attribute(OnePixel(), "occlusion", window=3, stride=1, target=0)
    # Nine windows cover a pixel; (3 - |dy|)(3 - |dx|) of them the one that is read as well.
    shares = np.array([0, 1, 2, 3, 2, 1, 0]) / 3
    expected = float(IMAGES[0, 0, 5, 9]) * np.outer(shares, shares)
    np.testing.assert_allclose(result.maps[0][2:9, 6:13], expected, rtol=1e-6, atol=1e-7)
    assert not result.maps[0][:2].any() and not result.maps[0][:, 13:].any()


def test_integrated_gradients_of_a_square_depend_on_the_number_of_steps() -> None:
    class Square(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixel = images[:, 0, 0, 0]
            return torch.stack([pixel**4, pixel], 1)

    image = torch.zeros(1, 3, 16, 16)
    image[0, 0, 0, 0] = 2.0
    options = {"method": "integrated-gradients", "target": 0, "device": "cpu"}
    # One step of Gauss and Legendre is the midpoint: 2 * 4 * 1 ** 3. Two are exact for the third power of the gradient.
    assert measure_attribution(Square(), image, steps=1, **options).maps[0, 0, 0] == pytest.approx(8.0)
    assert measure_attribution(Square(), image, steps=2, **options).maps[0, 0, 0] == pytest.approx(16.0)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("saliency", {"steps": 9}, "option steps cannot be used with method 'saliency'. It is an option of integrated"),
        ("grad-cam", {"baseline": "black"}, "an option of integrated-gradients and occlusion"),
        ("occlusion", {"window": 4, "stride": 5}, "The stride 5x5 is larger than the window 4x4"),
        ("occlusion", {"stride": 2}, "The stride 2x2 is larger than the window 1x1"),
        ("occlusion", {"window": 17}, "The window 17x17 is larger than the images, which have 16x16 px"),
        ("occlusion", {"baseline": "pink"}, "Unknown baseline 'pink'. Choose from mean, black"),
        ("smooth-grad", {"noise": 0}, "The noise 0 is invalid"),
        ("smooth-grad", {"samples": 0}, "number of samples cannot be 0"),
        ("integrated-gradients", {"steps": 1.5}, "number of steps cannot be 1.5"),
        ("saliency", {"precision": "fp8"}, "Unknown precision"),
        ("deconvolution", {"precision": "bf16"}, "cannot be computed with precision 'bf16'"),
    ],
)
def test_options_that_cannot_be_used(method: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        attribute(Cnn(), method, **options)


@pytest.mark.parametrize("method", ["saliency", "grad-cam", "occlusion"])
@pytest.mark.parametrize("precision", ["fast", "bf16"])
def test_reduced_precision_is_near(method: str, precision: str) -> None:
    model = Cnn()
    options = {"window": 4} if method == "occlusion" else {}
    exact, found = (attribute(model, method, precision=one, target=1, **options) for one in ("fp32", precision))
    assert found.run.precision == precision and precision in f"{found.run.config['arithmetic']} bf16 fast"
    # bfloat16 has eight bits; layers this small keep float32, where only the order of sums differs.
    assert np.abs(found.maps - exact.maps).max() <= 2e-2 * np.abs(exact.maps).max()
    assert any("Precision:" in note for note in found.notes) == (" throughout" in found.run.config["arithmetic"])


def test_an_interrupted_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Cnn(), torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    config = AttributionConfig(method="grad-cam", device="cpu")
    whole = plan_attribution(model, images, None, config).run()
    plan, numbers = plan_attribution(model, images, None, config), AttributionPlan._numbers
    seen: list[str] = []

    def interrupted(self, image_id: str, *args):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(image_id)
        return numbers(self, image_id, *args)

    monkeypatch.setattr(AttributionPlan, "_numbers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.run(checkpoint=tmp_path)
    monkeypatch.setattr(AttributionPlan, "_numbers", numbers)
    other = plan_attribution(model, images, None, dataclasses.replace(config, target=1))
    with pytest.raises(ResumeError, match="It was created with target none, but this run has target 1"):
        other.run(checkpoint=tmp_path, resume=True)
    monkeypatch.setattr(
        AttributionPlan, "_numbers", lambda self, *args: (seen.append(args[0]), numbers(self, *args))[1]
    )
    again = plan_attribution(model, images, None, config).run(checkpoint=tmp_path, resume=True)
    assert again == whole and seen == [f"tensor-{index:04d}" for index in range(5)]
    assert plan.difference(again) is None and other.difference(again)
    with_mean = plan_attribution(model, images, None, dataclasses.replace(config, mean=0.5)).run()
    assert "created with mean 0.5, but this run has mean none" in str(plan.difference(with_mean))


def test_parts_are_joined(tmp_path: Path) -> None:
    model, images = ClassToken(), torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    config = AttributionConfig(method="grad-cam", target=0, device="cpu")
    plan = plan_attribution(model, images, None, config)
    folders = part_folders(tmp_path, plan.parts(2))
    for part, folder in folders.items():
        plan.run_part(part, folder)
    assert len(folders) == 2 and plan.join(folders) == plan.run()
