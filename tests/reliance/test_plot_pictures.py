"""The figure of one image under each suppression."""

from __future__ import annotations

import numpy as np
import pytest

from replk_probe import measure_reliance
from replk_probe.reliance import draw_suppressions


@pytest.mark.parametrize(
    ("suppressions", "rows", "columns", "labels"),
    [
        ("patch-shuffle", 1, 5, ["original", "2", "4", "8", "16"]),
        ("grayscale", 1, 2, ["original", "grayscale"]),
        ("patch-shuffle:4,gaussian-blur:2", 2, 2, ["original", "4", "original", "2"]),
        ("patch-shuffle:4,gaussian-blur:2,bilateral:50", 1, 4, ["original", "4", "2", "50"]),
    ],
)
def test_the_original_is_first_and_the_page_is_full(
    suppressions: str, rows: int, columns: int, labels: list[str]
) -> None:
    result = measure_reliance("replknet_micro_k3", suppressions=suppressions, images=8, device="cpu")
    figure = draw_suppressions(result)
    pictures = [ax for ax in figure.axes if ax.get_images()]
    np.testing.assert_array_equal(pictures[0].get_images()[0].get_array(), result.pictures[0])
    places = [ax.get_position() for ax in pictures]
    assert len({round(box.x0, 3) for box in places}) == columns and len({round(box.y0, 3) for box in places}) == rows
    assert max(box.x1 for box in places) > 0.97  # nothing is left empty beside the pictures
    assert [text.get_text() for text in figure.texts if text.get_text() in labels] == labels
