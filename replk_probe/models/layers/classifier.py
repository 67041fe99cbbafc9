"""Classifier head of the architectures: mean pooling and one linear layer, with timm's interface."""

from __future__ import annotations

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError


class MeanPooled(nn.Module):
    """Adds ``forward`` and timm's methods for the classifier to a network that pools by the mean.

    Attributes:
        classifier_path: Path of the linear layer.
        num_features: Number of its inputs.
        num_classes: Number of its outputs; 0 replaces it by an identity.
    """

    classifier_path = "head"
    num_features: int
    num_classes: int

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.get_submodule(self.classifier_path)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``[N, num_classes]``."""
        logits: Tensor = self.forward_head(self.forward_features(x))  # type: ignore[operator]
        return logits

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; ``global_pool`` exists for compatibility with timm and must be ``"avg"`` or None."""
        if global_pool not in (None, "avg"):
            raise InvalidInputError(
                f"{type(self).__name__} only supports mean pooling, but global_pool is {global_pool!r}."
            )
        weight = next(self.parameters())
        layer = linear_classifier(self.num_features, num_classes).to(device=weight.device, dtype=weight.dtype)
        parent, _, name = self.classifier_path.rpartition(".")
        setattr(self.get_submodule(parent), name, layer)
        self.num_classes = num_classes


def linear_classifier(num_features: int, num_classes: int) -> nn.Module:
    """A linear layer, or an identity if ``num_classes`` is 0."""
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()
