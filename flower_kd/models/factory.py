"""Models from names: the package's, or the user's own."""

from __future__ import annotations

from torch import nn

from flower_kd import folders
from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe
from flower_kd.models.pruning import prune_smallest
from flower_kd.models.registry import MODELS
from flower_kd.models.two_heads import TwoHeads
from flower_kd.models.weights import load_weights
from flower_kd.seeding import derive, torch_seeded


def build(
    name: str,
    num_classes: int,
    shape: tuple[int, int, int],
    seed: int = 0,
    weights_file: str = "",
    *,
    two_heads: bool = False,
) -> nn.Module:
    """Return a model on the CPU whose initial weights depend only on the seed.

    Parameters
    ----------
    name : str
        A registered name, or "module:factory" for the user's own, called with `num_classes` and `shape`; each with
        settings in parentheses: its own, and `prune`, the share of each layer's weights to prune (`prune_smallest`).
    num_classes : int
        Width of the logits.
    shape : tuple of int
        Channels, height and width of an image.
    seed : int
        Seed of the initial weights; torch's global generators are left unchanged.
    weights_file : str
        A local file for `load_weights`; none if empty.
    two_heads : bool
        Whether to return the model as the backbone and the first head of a `TwoHeads`.

    Raises
    ------
    InputError
        If the name, the factory or the file cannot be used.
    """
    factory, share = MODELS.bind(name), float(MODELS.common_settings(name).get("prune", 0.0))
    with torch_seeded(seed):
        try:
            model = factory(num_classes=num_classes, shape=shape)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"model {name!r} fails on num_classes={num_classes}, shape={shape}: {describe(error)}"
            ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} returns {of_type(model)}, not a torch.nn.Module")
    if next(model.parameters(), None) is None:
        raise InputError(f"model {name!r} has no parameters to train")
    if weights_file:
        load_weights(model, folders.expanded(weights_file))
    if share:
        try:
            prune_smallest(model, share)
        except InputError as error:
            raise InputError(f"model {name!r}: {error}") from None
    if not two_heads:
        return model
    with torch_seeded(derive(seed, "second head")):
        try:
            return TwoHeads(model, classes=num_classes)
        except InputError as error:
            raise InputError(f"model = {name!r}: {error}") from None


def num_parameters(model: nn.Module) -> int:
    """Return a model's number of parameters, without the running statistics of normalization layers."""
    return sum(parameter.numel() for parameter in model.parameters())
