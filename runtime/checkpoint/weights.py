"""A checkpoint's tensors, read lazily from memory-mapped safetensors: a rank touches the bytes of its own shard and no others."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from runtime.checkpoint.config import CheckpointError, read_json

ExpertPart = Literal["gate", "up", "down"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# Mixture blocks by name, each with what it calls an expert's gate, up and down
_EXPERT_NAMES: dict[str, dict[ExpertPart, str]] = {
    "mlp": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
    "block_sparse_moe": {"gate": "w1", "up": "w3", "down": "w2"},
}


class Checkpoint:
    """The weights of a checkpoint directory: one `model.safetensors` or the shards that its index lists.

    Files open at their first use. A tensor keeps the checkpoint's dtype and, save for `columns`, may be a view of the mapped
    file: copy it onto its device (`parameter.copy_`) before writing to it. Every error is a CheckpointError that names the
    file and the tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.bytes_read = 0  # of the slices handed out
        self._open: dict[Path, Any] = {}
        self._files = self._locate()

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    def has(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the file's header alone."""
        return tuple(self._slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        return self._read(name, ...)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor of one or more dimensions."""
        self._check_range(name, 0, start, stop)
        return self._read(name, slice(start, stop))

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Columns [start, stop) of a matrix, contiguous."""
        self._check_range(name, 1, start, stop)
        return self._read(name, (slice(None), slice(start, stop))).contiguous()

    def release(self) -> None:
        """Unmap the files: their pages stop counting as this process' memory. The next read maps them again."""
        self._open.clear()

    def router(self, layer: str) -> torch.Tensor:
        """The router of a mixture layer (`layer`: "model.layers.3"): [experts, hidden]."""
        return self.tensor(self._first(layer, [f"{block}.gate.weight" for block in _EXPERT_NAMES]))

    def expert(self, layer: str, index: int, part: ExpertPart, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """One expert's projection in a mixture layer, cut to [start, stop) of the expert's intermediate size.

        "gate" and "up" come as [stop - start, hidden], "down" as [hidden, stop - start], whichever way they are stored: one
        tensor an expert, or all experts in `gate_up_proj` [experts, 2 x intermediate, hidden] and `down_proj`
        [experts, hidden, intermediate].
        """
        single = [f"{block}.experts.{index}.{names[part]}.weight" for block, names in _EXPERT_NAMES.items()]
        fused = [f"{block}.experts.{'down_proj' if part == 'down' else 'gate_up_proj'}" for block in _EXPERT_NAMES]
        name = self._first(layer, single + fused)
        shape = self.shape(name)
        if len(shape) == 2:
            if part == "down":
                return self.columns(name, start, shape[1] if stop is None else stop)
            return self.rows(name, start, shape[0] if stop is None else stop)
        size = shape[2] if part == "down" else shape[1] // 2
        stop = size if stop is None else stop
        if not (0 <= index < shape[0] and 0 <= start <= stop <= size):
            raise CheckpointError(f"{name}: expert {index}, {start} to {stop} lies outside {shape[0]} experts of size {size}")
        if part == "down":
            return self._read(name, (index, slice(None), slice(start, stop))).contiguous()
        offset = size if part == "up" else 0
        return self._read(name, (index, slice(offset + start, offset + stop)))

    def _locate(self) -> dict[str, Path]:
        """Tensor name -> file. transformers, too, takes the single file before an index."""
        single, index = self.path / _SINGLE, self.path / _INDEX
        if single.is_file():
            return dict.fromkeys(self._file(single).keys(), single)
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise CheckpointError(f"{index} has no weight_map: it names the file of each tensor")
            missing = sorted({file for file in weight_map.values() if not (self.path / file).is_file()})
            if missing:
                raise CheckpointError(f"{self.path} lacks {', '.join(missing)}, which {_INDEX} lists: download the shards again")
            return {name: self.path / file for name, file in weight_map.items()}
        if sorted(self.path.glob("*.bin")):
            raise CheckpointError(
                f"{self.path} holds PyTorch .bin weights, which run code when loaded: convert them to safetensors"
            )
        raise CheckpointError(f"{self.path} has neither {_SINGLE} nor {_INDEX}")

    def _file(self, path: Path, name: str = "") -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                tensor = f" (wanted for {name})" if name else ""
                raise CheckpointError(
                    f"{path}{tensor} is truncated or no safetensors file: {error}; it has {path.stat().st_size} bytes"
                ) from None
        return self._open[path]

    def _slice(self, name: str) -> Any:
        path = self._files.get(name)
        if path is None:
            raise CheckpointError(f"{self.path} has no tensor {name}{self._similar(name)}")
        try:
            return self._file(path, name).get_slice(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path} has no readable tensor {name}: {error}") from None

    def _read(self, name: str, where: Any) -> torch.Tensor:
        part = self._slice(name)
        try:
            tensor: torch.Tensor = part[where]
        except SafetensorError as error:
            raise CheckpointError(f"{self._files[name]}: tensor {name} cannot be read: {error}") from None
        self.bytes_read += tensor.numel() * tensor.element_size()
        return tensor

    def _check_range(self, name: str, axis: int, start: int, stop: int) -> None:
        # safetensors clamps a slice that runs over the end
        shape = self.shape(name)
        if len(shape) <= axis or not 0 <= start <= stop <= shape[axis]:
            raise CheckpointError(f"{self._files[name]}: {start} to {stop} lies outside axis {axis} of {name} {list(shape)}")

    def _first(self, layer: str, endings: list[str]) -> str:
        for ending in endings:
            if self.has(f"{layer}.{ending}"):
                return f"{layer}.{ending}"
        raise CheckpointError(f"{self.path} has none of {', '.join(f'{layer}.{ending}' for ending in endings)}")

    def _similar(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._files, n=1)
        return f"; nearest: {near[0]}" if near else f" among its {len(self._files)}"
