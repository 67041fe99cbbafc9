"""Measurements of networks whose accuracy under each suppression is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import squeezenet1_0

from replk_probe import RelianceResult, load_checkpoint, measure_reliance
from replk_probe.errors import BackendError, InvalidInputError, ResumeError
from replk_probe.models.checkpoints.digest import bytes_of_model, digest_of
from replk_probe.reliance import RelianceConfig, suppress
from replk_probe.reliance.labeled_images import folder_images, generated_images
from replk_probe.reliance.plan import plan_reliance
from replk_probe.reliance.suppressions import parse_suppressions
from replk_probe.runtime.parts import part_folders

SIZE = 16
PLAIN = {"mean": 0.0, "std": 1.0, "size": SIZE, "device": "cpu"}


class MeanColor(nn.Module):
    """The class is the channel with the highest mean."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class BrightQuarter(nn.Module):
    """The class is the brightest quarter of the image, from the upper left one to the lower right one."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


class Stopping(MeanColor):
    """It is interrupted at one of its forward passes."""

    def __init__(self, after: int | None) -> None:
        super().__init__()
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        if self.after is not None and len(images) > 1:
            self.after -= 1
            if self.after < 0:
                raise KeyboardInterrupt
        return super().forward(images)


def save(folder: Path, label: str, name: str, pixels: npt.NDArray[np.uint8]) -> None:
    (folder / label).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / label / f"{name}.png")


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight noisy images for each of three colors, in folders with the index of the color."""
    folder, random = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for color in range(3):
        for index in range(8):
            pixels = random.integers(0, 100, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[..., color] += 120
            save(folder, str(color), str(index), pixels)
    return folder


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images for each quarter that is bright, in folders with its index."""
    folder = tmp_path_factory.mktemp("quarters")
    for quarter in range(4):
        for index in range(10):
            pixels = np.full((SIZE, SIZE, 3), index, np.uint8)
            row, column = divmod(quarter, 2)
            pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 200
            save(folder, str(quarter), str(index), pixels)
    return folder


def test_a_network_that_looks_at_color_relies_on_it_only(colors: Path) -> None:
    result = measure_reliance(MeanColor(), colors, suppressions="grayscale,channel-shuffle,patch-shuffle", **PLAIN)
    found = {one.suppression: one for one in result.suppressions}
    assert result.accuracy == 1 and result.accuracy_interval == (1, 1) and result.chance == 1 / 3
    # Of equal outputs the first is chosen, and one image of three belongs to it.
    assert found["grayscale"].accuracy == 1 / 3 and set(result.decisions[1]) == {0}
    # No color keeps its place in two of the five orders, and one color in the other three.
    places = []
    for index, image_id in enumerate(result.run.image_ids):
        probe = torch.tensor([0, 1, 2], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
        order = suppress(probe, "channel-shuffle", image_id=image_id)[:, 0, 0].tolist()
        places.append(order.index(int(result.targets[index])))
    assert result.decisions[2].tolist() == places and 0 < found["channel-shuffle"].accuracy < 1 / 2
    for one in result.suppressions[2:]:
        assert (one.relative_accuracy, one.relative_interval) == (1, (1, 1)) and one.cues == "shape"
    shape, color = result.profile
    assert (shape.cues, shape.relative_accuracy, shape.interval) == ("shape", 1, (1, 1))
    mean = (found["grayscale"].accuracy + found["channel-shuffle"].accuracy) / 2
    assert color.cues == "color" and color.relative_accuracy == pytest.approx(mean)
    assert color.interval[0] < mean < color.interval[1]


def test_a_network_that_looks_at_places_relies_on_shape_only(quarters: Path) -> None:
    names = "patch-shuffle:2,patch-rotation:2,gaussian-blur:4,bilateral:50,non-local-means:10,grayscale"
    result = measure_reliance(BrightQuarter(), quarters, suppressions=names, **PLAIN)
    shuffled = []
    for index, image_id in enumerate(result.run.image_ids):
        probe = torch.arange(4, dtype=torch.uint8).reshape(1, 2, 2).expand(3, 2, 2)
        order = suppress(probe, "patch-shuffle:2", image_id=image_id)[0].flatten().tolist()
        shuffled.append(order.index(int(result.targets[index])))
    assert result.decisions[1].tolist() == shuffled
    assert result.suppressions[0].relative_accuracy == np.mean(result.targets == shuffled)
    assert [one.relative_accuracy for one in result.suppressions[1:]] == [1] * 5


def test_accuracies_are_those_of_the_suppressed_images(colors: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    names = "patch-rotation:4,gaussian-blur:8,grayscale+patch-shuffle:4,bilateral:100+patch-shuffle:4"
    result = measure_reliance(model, colors, suppressions=names, seed=3, **PLAIN)
    for row, one in enumerate(result.suppressions, start=1):
        for index, image_id in enumerate(result.run.image_ids):
            pixels = torch.from_numpy(np.array(Image.open(colors / image_id))).permute(2, 0, 1)
            inputs = suppress(pixels, one.suppression, seed=3, image_id=image_id).float() / 255
            assert int(model(inputs[None]).argmax()) == result.decisions[row, index]
        assert one.accuracy == np.mean(result.decisions[row] == result.targets)
    assert result.decisions[0].tolist() != result.decisions[1].tolist()


def test_batches_threads_and_parts_change_no_byte(colors: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    options = {"suppressions": "patch-shuffle:4,bilateral:50+channel-shuffle", **PLAIN}
    expected = None
    for batch_size, workers in ((1, 0), (5, 2), (24, 3), (7, 0)):
        result = measure_reliance(model, colors, batch_size=batch_size, workers=workers, **options)
        result.save(tmp_path / str(batch_size))
        expected = expected or result
        assert result == expected
        for name in ("reliance.npz", "reliance.csv"):
            assert (tmp_path / str(batch_size) / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    plan = plan_reliance(model, colors, RelianceConfig(**options))
    parts = part_folders(tmp_path / "parts", plan.parts(3))
    assert len(parts) == 3
    for part in reversed(parts):
        plan.run_part(part, parts[part])
    assert plan.join(parts) == expected and RelianceResult.load(tmp_path / "5") == expected
    # The images of a batch do not depend on its order either.
    few = measure_reliance(model, colors, images=6, **options)
    rows = [expected.run.image_ids.index(one) for one in few.run.image_ids]
    assert len(rows) == 6 and (few.decisions == expected.decisions[:, rows]).all()
    assert np.bincount(few.targets).tolist() == [2, 2, 2]


def test_near_ties_are_decided_one_by_one(colors: Path) -> None:
    class Unsteady(nn.Module):
        """Its outputs are equal, up to rounding that depends on the number of images."""

        def forward(self, images: Tensor) -> Tensor:
            outputs = torch.ones(len(images), 3)
            outputs[:, 1] += 1e-6 * (len(images) > 1)
            return outputs

    result = measure_reliance(Unsteady(), colors, suppressions="grayscale", **PLAIN)
    assert not result.decisions.any()


def test_an_interrupted_run_is_continued(colors: Path, tmp_path: Path) -> None:
    options = {"suppressions": "grayscale,patch-shuffle", "batch_size": 4, "name": "net", **PLAIN}
    expected = measure_reliance(Stopping(None), colors, **options)
    with pytest.raises(KeyboardInterrupt):
        measure_reliance(Stopping(13), colors, checkpoint=tmp_path / "state", **options)
    result = measure_reliance(Stopping(24), colors, checkpoint=tmp_path / "state", resume=True, **options)
    assert result == expected
    for name, one in (("a", result), ("b", expected)):
        one.save(tmp_path / name)
    for name in ("reliance.npz", "reliance.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(ResumeError, match="suppressions"):
        other = options | {"suppressions": "grayscale"}
        measure_reliance(Stopping(None), colors, checkpoint=tmp_path / "state", resume=True, **other)


def test_the_model_and_the_generators_are_left_alone(colors: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model.train()
    digest, state = digest_of(bytes_of_model(model)), torch.random.get_rng_state()
    measure_reliance(model, colors, suppressions="patch-shuffle:2,channel-shuffle", **PLAIN)
    assert model.training and digest_of(bytes_of_model(model)) == digest
    assert torch.equal(torch.random.get_rng_state(), state)


def test_channels_of_the_network(colors: Path) -> None:
    class Blue(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)).flip(1)

    reversed_colors = measure_reliance(Blue(), colors, suppressions="patch-shuffle:2", bgr=True, **PLAIN)
    assert reversed_colors.accuracy == 1 and any("BGR" in note or "B, G, R" in note for note in reversed_colors.notes)

    class Gray(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[1] == 1
            return torch.cat([images.mean((2, 3)) - level for level in (0.3, 0.6, 0.4)], 1)

    gray = measure_reliance(Gray(), colors, suppressions="grayscale", channels=1, **PLAIN)
    assert gray.decisions.shape == (2, 24) and any("luminance" in note for note in gray.notes)


def test_a_mapping_and_probabilities(colors: Path, tmp_path: Path) -> None:
    for index, name in enumerate(("red", "green", "blue")):
        (tmp_path / name).symlink_to(colors / str(index))
    mapping = {"red": [0, 3], "green": [1], "blue": [2]}

    class Four(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores = images.mean((2, 3))
            return torch.cat([scores, scores[:, :1]], 1).mul(20).softmax(1)

    result = measure_reliance(Four(), tmp_path, suppressions="grayscale", mapping=mapping, **PLAIN)
    assert (result.accuracy, result.classes, result.label_space) == (1, ("blue", "green", "red"), "mapping given")


def test_no_correct_decision(colors: Path, tmp_path: Path) -> None:
    model = nn.Sequential(MeanColor(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3).roll(1, 0))
        model[1].bias.zero_()
    result = measure_reliance(model, colors, suppressions="grayscale", **PLAIN)
    assert result.accuracy == 0 and result.profile[0].relative_accuracy is None
    assert result.suppressions[0].relative_interval is None and "relative numbers are undefined" in result.notes[-1]
    result.save(tmp_path)
    assert RelianceResult.load(tmp_path) == result
    with pytest.raises(InvalidInputError, match="There is nothing to draw"):
        result.plot()


@pytest.mark.parametrize(("n_correct", "noted"), [(6, False), (1, True)])
def test_few_correct_decisions(n_correct: int, noted: bool, colors: Path) -> None:
    result = measure_reliance(MeanColor(), colors, suppressions="grayscale", **PLAIN)
    # Of the samples of 23 images, (17 / 23)^23 = 0.1 % lack six given images, and (22 / 23)^23 = 36 % a single one.
    targets = np.ones(23, np.int32)
    targets[:n_correct] = 0
    found = RelianceResult.from_decisions(
        np.zeros((2, 23), np.int32), targets, parse_suppressions("grayscale"), pictures=result.pictures, run=result.run,
        label_space="indices", classes=("0", "1"),
    )  # fmt: skip
    (row,), (cue,) = found.suppressions, found.profile
    assert (row.relative_interval is None) == (cue.interval is None) == noted
    notes = [note for note in found.notes if note.startswith("Relative accuracies have no intervals: 3")]
    assert bool(notes) == noted


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": None}, r"There are no images for MeanColor\. .* Give data, a folder of images"),
        ({"data": 5}, "Expected data as a folder of images, but got an object of type int"),
        ({"data": "none"}, "Image folder none does not exist"),
        ({"suppressions": "blur"}, "Unknown suppression 'blur'"),
        ({"images": 0}, "The number of images cannot be 0"),
        ({"size": (16, 24), "suppressions": "patch-rotation:4"}, "Patches of 4 x 6 pixels cannot be rotated"),
        ({"size": 8, "suppressions": "patch-shuffle"}, "Images of 8x8 pixels cannot be divided into 16 x 16 patches"),
    ],
)
def test_arguments_that_cannot_be_used(colors: Path, options: dict, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        measure_reliance(MeanColor(), **{"data": colors, "suppressions": "grayscale", **PLAIN, **options})


def test_opencv_is_needed_before_the_first_image_only_if_it_is_used(
    colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = measure_reliance(MeanColor(), colors, suppressions="gaussian-blur:1", **PLAIN)
    assert "version of opencv" not in result.run.config
    with pytest.raises(BackendError, match="Cannot compute bilateral and non-local-means"):
        plan_reliance(MeanColor(), colors, RelianceConfig(**PLAIN))


def test_folders_of_images(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for label, name in (("b", "1"), ("a", "2"), ("a/deep", "3")):
        save(tmp_path, label, name, pixels)
    Image.fromarray(pixels).save(tmp_path / "ILSVRC2012_val_00000293_n01440764.JPEG")
    Image.fromarray(pixels).save(tmp_path / "n02391049_zebra.JPEG")
    found = folder_images(tmp_path)
    assert dict(zip(found.ids, found.labels, strict=True)) == {
        "ILSVRC2012_val_00000293_n01440764.JPEG": "n01440764", "n02391049_zebra.JPEG": "n02391049",
        "a/2.png": "a", "a/deep/3.png": "a", "b/1.png": "b",
    }  # fmt: skip
    Image.fromarray(pixels + 1).save(tmp_path / "b" / "1.png")
    assert folder_images(tmp_path).digest != found.digest
    Image.fromarray(pixels).save(tmp_path / "zebra.png")
    with pytest.raises(InvalidInputError, match=r"The class of image 'zebra.png' in .* is unknown"):
        folder_images(tmp_path)


def test_generated_images_have_both_cues_of_their_class() -> None:
    found = generated_images(32, 20)
    assert found.labels[:2] == found.labels[16:18] and len({*found.labels}) == 16
    picture = found.loader(3, (32, 32))
    assert picture.size == (32, 32) and found.loader(3, (24, 40)).size == (40, 24)
    assert np.array_equal(np.asarray(picture), np.asarray(generated_images(32, 5).loader(3, (32, 32))))


def test_small_models_rely_on_the_cue_that_was_valid_in_training() -> None:
    relative = {}
    for tag in ("shape100", "shape50"):
        result = measure_reliance(
            f"replknet_micro_k3.{tag}", suppressions="patch-shuffle:4,gaussian-blur:2", images=96, device="cpu"
        )
        assert result.label_space == "synthetic" and "generated" in result.notes[0]
        relative[tag] = {one.cues: one for one in result.suppressions}
    # The intervals do not overlap: the shape belonged to the label always or half of the time, the texture always.
    assert relative["shape100"]["shape"].relative_interval[1] < relative["shape50"]["shape"].relative_interval[0]
    assert relative["shape50"]["texture"].relative_interval[1] < relative["shape100"]["texture"].relative_interval[0]


def test_a_trained_network_on_photos(data_dir: Path) -> None:
    file = data_dir / "weights" / "squeezenet1_0_imagenet.safetensors"
    result = measure_reliance(
        "torchvision:squeezenet1_0", data_dir / "images", weights=file, suppressions="grayscale", size=128,
        device="cpu",
    )  # fmt: skip
    assert result.label_space == "imagenet" and len(result.targets) == 50
    assert result.classes[result.targets[0]] == "tench" and result.run.image_ids[0].startswith("n01440764")
    # The network of torchvision itself, one image at a time.
    network = squeezenet1_0().eval()
    load_checkpoint(network, file)
    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for index in range(0, 50, 7):
        picture = Image.open(data_dir / "images" / result.run.image_ids[index]).convert("RGB").resize((128, 128), 3)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        for row, image in enumerate((pixels, suppress(pixels, "grayscale"))):
            with torch.no_grad():
                outputs = network(((image.float() / 255 - mean) / std)[None])
            assert int(outputs.argmax()) == result.decisions[row, index]
