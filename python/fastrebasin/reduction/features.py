"""What a model makes of examples before its last layer."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["FeatureExtractor"]


class FeatureExtractor:
    """A model that returns features beside its logits.

    Args:
        model: is watched from now on.
        layer: the module whose output is the features; by default they are the input of the last
            `nn.Linear` that runs.

    Raises:
        ValueError: the model has no such layer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> features, logits = FeatureExtractor(model)(torch.zeros(5, 3))
        >>> features.shape, logits.shape
        (torch.Size([5, 4]), torch.Size([5, 2]))
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        self.model, self.layer = model, layer
        self._seen: list[Tensor] = []
        if layer not in {None, *(name for name, _ in model.named_modules())}:
            raise ValueError(f"the model has no layer {layer!r}")
        if layer is not None:
            model.get_submodule(layer).register_forward_hook(
                lambda _module, _args, output: self._seen.append(output)
            )
            return
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(lambda _module, args: self._seen.append(args[0]))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features as the model has them, (n, ...), and its logits, (n, classes).

        Raises:
            ValueError: the model returns no logits, or nothing that was named ran.
        """
        self._seen.clear()
        logits = self.model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the model must return logits (batch, classes), got {shape}")
        if not self._seen:
            what = "no nn.Linear ran" if self.layer is None else f"{self.layer!r} didn't run"
            raise ValueError(f"there are no features: {what}; name a layer that runs")
        return self._seen[-1], logits
