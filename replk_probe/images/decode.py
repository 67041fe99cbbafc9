"""Decode image files to RGB bytes and normalize them for a model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from replk_probe.errors import InvalidInputError

from .depth import DEPTH, UnsuitableLevelsError, check_upper_bytes, eight_bits

_TOO_LARGE = "more pixels than can be decoded safely"


class UnreadableImageError(InvalidInputError):
    """An image that cannot be used.

    Attributes:
        image_id: Id of the image in its set.
        reason: Short reason, without the id.

    Examples:
        >>> from pathlib import Path
        >>> from replk_probe.images import UnreadableImageError, decode_rgb
        >>> _ = Path("broken.png").write_text("This is not an image.")
        >>> try:
        ...     decode_rgb(Path("broken.png"), "broken.png")
        ... except UnreadableImageError as error:
        ...     print(error.image_id)
        broken.png
    """

    def __init__(self, image_id: str, reason: str) -> None:
        """Build the message from the image and the reason."""
        super().__init__(f"Cannot use image {image_id}. It is unreadable: {reason}. Remove or replace it.")
        self.image_id = image_id
        self.reason = reason


def load_rgb(path: Path, image_id: str, size: tuple[int, int]) -> Image.Image:
    """Decode one file as :func:`decode_rgb` does and warp it to ``size``, ``(H, W)`` in pixels.

    As in the paper's script, the whole image is warped with PIL's bicubic filter, regardless of its aspect ratio.
    """
    with _opened(path, image_id) as image:
        return _to_rgb(image, image_id).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def decode_rgb(path: Path, image_id: str) -> Image.Image:
    """Decode one file at its original size.

    As in the paper's script, PIL converts the image to RGB (an alpha channel is dropped without compositing), and
    camera orientation tags are not applied. Gray levels of more than eight bits are scaled to eight bits, by the
    depth of the file or its range, whereas PIL would clip them; ``info`` of the image then has the depth.

    Args:
        path: Path of the file.
        image_id: Id of the image in its set, for errors.

    Returns:
        The image in mode RGB, at its own size.

    Raises:
        UnreadableImageError: The file is missing, truncated, not an image, or has more pixels than PIL considers safe.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe.images import decode_rgb
        >>> Image.new("L", (64, 48), 100).save("gray.png")
        >>> image = decode_rgb(Path("gray.png"), "gray.png")
        >>> image.size, image.getpixel((0, 0))
        ((64, 48), (100, 100, 100))
    """
    with _opened(path, image_id) as image:
        return _to_rgb(image, image_id)


def check_image(path: Path, image_id: str) -> tuple[int, int]:
    """Check the header of a file and, for PNG files, all checksums, without decoding it.

    Args:
        path: Path of the file.
        image_id: Id of the image in its set, for errors.

    Returns:
        ``(H, W)`` in pixels.

    Raises:
        UnreadableImageError: The file is missing, not an image, has more pixels than PIL considers safe, or is a
            damaged or truncated PNG; damage to other formats is detected when they are decoded.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe.images import check_image
        >>> Image.new("RGB", (64, 48)).save("black.png")
        >>> check_image(Path("black.png"), "black.png")
        (48, 64)
    """
    with _opened(path, image_id) as image:
        image.verify()
        return image.height, image.width


@contextlib.contextmanager
def _opened(path: Path, image_id: str) -> Iterator[Image.Image]:
    """Open an image; any error inside the block becomes an :class:`UnreadableImageError`."""
    if not path.is_file():  # a pipe would block
        raise UnreadableImageError(image_id, "no such file" if not path.exists() else "not a regular file")
    if path.stat().st_size == 0:
        raise UnreadableImageError(image_id, "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns about metadata that this package does not use
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                # Not only by PIL's warning, whose filters other threads may have replaced.
                if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                    raise UnreadableImageError(image_id, _TOO_LARGE)
                yield image
    except UnidentifiedImageError as error:
        raise UnreadableImageError(image_id, "not an image, despite its name") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(image_id, _TOO_LARGE) from error
    except UnreadableImageError:
        raise
    # Decoders raise many exceptions for damaged files: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = "truncated" if "truncated" in str(error).lower() else str(error) or type(error).__name__
        raise UnreadableImageError(image_id, reason[:1].lower() + reason[1:].rstrip(".")) from error


def _to_rgb(image: Image.Image, image_id: str) -> Image.Image:
    try:
        only_upper_bytes = check_upper_bytes(image)
        image.load()
        if image.mode.startswith("I"):
            return eight_bits(image).convert("RGB")
    except UnsuitableLevelsError as error:
        raise UnreadableImageError(image_id, str(error)) from error
    if image.mode == "F":
        raise UnreadableImageError(image_id, "floating-point pixels have no known range")
    rgb = image.convert("RGB")
    if only_upper_bytes:
        rgb.info[DEPTH] = 16
    return rgb


def normalize(array: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """Convert bytes to the input of a model, (value / 255 - mean) / std, channels first.

    Args:
        array: Image, ``[H, W, C]`` uint8.
        mean: Mean of each channel, for inputs in [0, 1].
        std: Standard deviation of each channel, for inputs in [0, 1].

    Returns:
        Contiguous array, ``[C, H, W]`` float32.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.images import normalize
        >>> white = np.full((48, 64, 3), 255, dtype=np.uint8)
        >>> array = normalize(white, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> array.shape, array.dtype, round(float(array.max()), 4)
        ((3, 48, 64), dtype('float32'), 2.0)
    """
    scaled = array.astype(np.float32) / np.float32(255)
    scaled -= np.asarray(mean, dtype=np.float32)
    scaled /= np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
