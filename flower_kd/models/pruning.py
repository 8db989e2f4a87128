"""Magnitude pruning: in each layer, the weights of least magnitude are zero, and stay zero.

Han, Mao and Dally (ICLR 2016), as Wang, Wang and Ma 2020, section III.B, use it. A pruned model is what
`torch.nn.utils.prune` makes, whether by `prune_smallest` or by a user: a pruned `weight` is the parameter `weight_orig`
times the buffer `weight_mask`. Messages have only the kept values in place of both, because the receiver has the same
mask; files also have the mask, in bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import prune

from flower_kd.errors import InputError

WEIGHT = "weight"
ORIGINAL, MASK = "_orig", "_mask"  # torch.nn.utils.prune's

State = Mapping[str, Tensor]


def prune_smallest(model: nn.Module, share: float) -> None:
    """Prune the same share of the weights of each convolution and linear layer, those of least magnitude; in place.

    Biases and normalization layers are kept whole.

    Parameters
    ----------
    model : nn.Module
        Its weights are the initial ones.
    share : float
        In [0, 1); of n weights, round(share * n) become zero.

    Raises
    ------
    InputError
        If there is nothing to prune, or nothing would be left of a layer.
    """
    layers = {name: layer for name, layer in model.named_modules() if _is_prunable(layer)}
    if not layers:
        raise InputError(f"prune = {share:g}: the model has no convolution and no linear layer")
    for name, layer in layers.items():
        weight = layer.weight
        if isinstance(weight, UninitializedParameter):
            raise InputError(f"prune = {share:g}: layer {name!r} is lazy, and has no weights yet")
        amount = round(share * weight.numel())
        if amount == weight.numel():
            raise InputError(f"prune = {share:g} leaves none of the {amount} weights of layer {name!r}")
        prune.l1_unstructured(layer, WEIGHT, amount=amount)
        with torch.no_grad():
            layer.weight_orig.mul_(layer.weight_mask)


def _is_prunable(layer: nn.Module) -> bool:
    """Return whether a layer can be pruned, and is not yet.

    The projection of an attention layer is not called, but used by its weight, which would not be masked.
    """
    kinds = isinstance(layer, _ConvNd | nn.Linear) and not isinstance(layer, NonDynamicallyQuantizableLinear)
    return kinds and WEIGHT in dict(layer.named_parameters(recurse=False))


def pruned_names(state: State) -> list[str]:
    """Return the names of pruned weights in a model's state, such as "conv1.weight"."""
    originals = (name.removesuffix(ORIGINAL) for name in state if name.endswith(ORIGINAL))
    return [name for name in originals if f"{name}{MASK}" in state]


def sent_name(name: str, state: State) -> str:
    """Return the name under which a parameter travels."""
    plain = name.removesuffix(ORIGINAL)
    return plain if plain != name and f"{plain}{MASK}" in state else name


def num_pruned(model: nn.Module) -> int:
    """Return how many parameters of a model are pruned."""
    state = model.state_dict()
    return sum(int((state[f"{name}{MASK}"] == 0).sum()) for name in pruned_names(state))


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of which weights are kept, in hexadecimal; empty if nothing is pruned."""
    state = model.state_dict()
    names = pruned_names(state)
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name} {list(state[f'{name}{MASK}'].shape)}\n".encode())
        digest.update(_to_bits(state[f"{name}{MASK}"]).numpy().tobytes())
    return digest.hexdigest() if names else ""


def packed(state: State) -> dict[str, Tensor]:
    """Return a state in which a pruned weight is its kept values only, [kept], in the order of their places."""
    names = pruned_names(state)
    if not names:
        return dict(state)
    masks = {f"{name}{MASK}" for name in names}
    found = {}
    for name, tensor in state.items():
        short = sent_name(name, state)
        if short != name:
            found[short] = tensor[state[f"{short}{MASK}"] != 0]
        elif name not in masks:
            found[name] = tensor
    return found


def unpacked(tensors: State, state: State) -> dict[str, Tensor]:
    """Return the state whose `packed` form has these tensors, with the masks of `state`."""
    names = pruned_names(state)
    found = {name: tensor for name, tensor in tensors.items() if name not in names}
    for name in names:
        mask = state[f"{name}{MASK}"]
        found[f"{name}{ORIGINAL}"] = _spread(name, tensors, mask != 0)
        found[f"{name}{MASK}"] = mask
    return found


def to_file(state: State) -> dict[str, Tensor]:
    """Return the packed state with its masks as bits, uint8 [ceil(weights / 8)]."""
    return packed(state) | {f"{name}{MASK}": _to_bits(state[f"{name}{MASK}"]) for name in pruned_names(state)}


def file_bytes(state: State) -> int:
    """Return the size of the file with a state."""
    return len(save({name: tensor.cpu().contiguous() for name, tensor in to_file(state).items()}))


def from_file(tensors: State, state: State) -> dict[str, Tensor]:
    """Return the state that `to_file` has stored; raises ValueError if it is of another model.

    Parameters
    ----------
    tensors : mapping
        What `to_file` has returned.
    state : mapping
        A state of the same network; its own masks do not matter.
    """
    names = pruned_names(state)
    masks = {f"{name}{MASK}" for name in names}
    found = {name: tensor for name, tensor in tensors.items() if name not in names and name not in masks}
    for name in names:
        own = state[f"{name}{MASK}"]
        bits = tensors.get(f"{name}{MASK}")
        if bits is None or bits.dtype != torch.uint8 or len(bits) != -(-own.numel() // 8):
            raise ValueError(f"{name!r} is not pruned, or has another shape")
        mask = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=own.numel())).view(own.shape).bool()
        found[f"{name}{ORIGINAL}"] = _spread(name, tensors, mask)
        found[f"{name}{MASK}"] = mask.to(own.dtype)
    return found


def with_zeros(tensors: State, state: State) -> dict[str, Tensor]:
    """Return the tensors of a file with plain weights and zeros for pruned ones, as in `state`, which is not pruned."""
    names = [name for name in state if f"{name}{MASK}" in tensors and f"{name}{MASK}" not in state]
    if not names:
        return dict(tensors)
    pruned = {f"{name}{part}": state[name] for name in names for part in (ORIGINAL, MASK)}
    whole = from_file({name: tensors[name] for name in [*names, *(f"{name}{MASK}" for name in names)]}, pruned)
    others = {name: tensor for name, tensor in tensors.items() if name.removesuffix(MASK) not in names}
    return others | {name: whole[f"{name}{ORIGINAL}"] for name in names}


def plain(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which pruned weights are plain parameters with zeros; itself if none is pruned."""
    if not _pruned_layers(model):
        return model
    for layer in _pruned_layers(model):
        for name in _names_of(layer):
            setattr(layer, name, getattr(layer, name).detach())  # others cannot be copied; it is computed in each pass
    copy = deepcopy(model)
    for layer in _pruned_layers(copy):
        for name in _names_of(layer):
            prune.remove(layer, name)
    return copy


def _pruned_layers(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if _names_of(layer)]


def _names_of(layer: nn.Module) -> list[str]:
    return [
        hook._tensor_name for hook in layer._forward_pre_hooks.values() if isinstance(hook, prune.BasePruningMethod)
    ]


def _spread(name: str, tensors: State, mask: Tensor) -> Tensor:
    """Return the kept values of a weight at their places, and zeros elsewhere."""
    values, kept = tensors.get(name), int(mask.sum())
    if values is None or values.shape != (kept,):
        found = "missing" if values is None else f"of shape {list(values.shape)}"
        raise ValueError(f"{name!r} is {found}, but {kept} of its weights are kept")
    weight = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device)
    weight[mask] = values.to(mask.device)
    return weight


def _to_bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1) != 0))
