"""Small random models of open_clip, under names that its registry has only in tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip

CLIP = "tiny-clip"  # logits without a bias
SIGLIP = "tiny-biased"  # logits with a bias, as in SigLIP, but with CLIP's tokenizer, which is part of open_clip
DIM = 16
IMAGE_SIZE = 32

_CONFIG: dict[str, Any] = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def register(folder: Path) -> None:
    """Add the models to open_clip's registry."""
    siglip = _CONFIG | {"init_logit_bias": -10, "init_logit_scale": 2.3, "custom_text": True}
    for name, config in {CLIP: _CONFIG, SIGLIP: siglip}.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        open_clip.add_model_config(path)
