import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.checkpoint.config import CheckpointError
from runtime.checkpoint.weights import Checkpoint

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def test_slices_equal_the_tensor_and_count_only_their_bytes(make_checkpoint):
    path = make_checkpoint("llama", dtype="bfloat16")
    whole = load_file(path / "model.safetensors")
    checkpoint = Checkpoint(path)
    assert checkpoint.names == sorted(whole)
    assert checkpoint.shape(Q_PROJ) == (128, 128)
    assert checkpoint.bytes_read == 0
    assert torch.equal(checkpoint.rows(Q_PROJ, 32, 64), whole[Q_PROJ][32:64])
    assert checkpoint.bytes_read == 32 * 128 * 2
    columns = checkpoint.columns(Q_PROJ, 96, 128)
    assert columns.is_contiguous()
    assert torch.equal(columns, whole[Q_PROJ][:, 96:])
    assert checkpoint.bytes_read == 2 * 32 * 128 * 2
    assert torch.equal(checkpoint.tensor("model.norm.weight"), whole["model.norm.weight"])
    assert torch.equal(checkpoint.rows("model.norm.weight", 5, 9), whole["model.norm.weight"][5:9])


def test_shards_open_when_a_tensor_of_theirs_is_wanted(make_checkpoint, tmp_path):
    one, many = make_checkpoint("llama"), tmp_path / "many"
    shutil.copytree(make_checkpoint("llama", shards=3), many)
    whole, checkpoint = load_file(one / "model.safetensors"), Checkpoint(many)
    assert checkpoint.names == sorted(whole)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in whole.items())

    files = json.loads((many / "model.safetensors.index.json").read_text())["weight_map"]
    broken = many / files[Q_PROJ]
    broken.write_bytes(broken.read_bytes()[:-10])
    checkpoint = Checkpoint(many)
    sound = next(name for name, file in files.items() if file != files[Q_PROJ])
    assert torch.equal(checkpoint.tensor(sound), whole[sound])
    with pytest.raises(CheckpointError, match=rf"{broken.name}.*{Q_PROJ}.*truncated"):
        checkpoint.rows(Q_PROJ, 0, 1)
    broken.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {broken.name}"):
        Checkpoint(many)


def test_errors_name_the_file_and_the_tensor(make_checkpoint, tmp_path):
    checkpoint = Checkpoint(make_checkpoint("llama"))
    with pytest.raises(CheckpointError, match=r"no tensor model.layers.1.self_attn.q_prj.weight; nearest: .*q_proj.weight"):
        checkpoint.tensor("model.layers.1.self_attn.q_prj.weight")
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: 100 to 200 lies outside axis 0 of .*q_proj.weight \[128, 128\]"
    ):
        checkpoint.rows(Q_PROJ, 100, 200)
    with pytest.raises(CheckpointError, match="axis 1"):
        checkpoint.columns("model.norm.weight", 0, 1)
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor"):
        Checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or no safetensors file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_read_alike_from_every_storage(family, make_checkpoint, tmp_path):
    path = make_checkpoint(family)
    single = Checkpoint(path)
    layer, block = "model.layers.2", "block_sparse_moe" if family == "mixtral" else "mlp"
    experts = range(single.router(layer).shape[0])
    whole = {part: torch.stack([single.expert(layer, i, part) for i in experts]) for part in ("gate", "up", "down")}
    size = whole["gate"].shape[1]
    fused = {
        f"{layer}.{block}.experts.gate_up_proj": torch.cat([whole["gate"], whole["up"]], dim=1),
        f"{layer}.{block}.experts.down_proj": whole["down"].contiguous(),
    }
    save_file(fused, tmp_path / "model.safetensors")
    for checkpoint in (single, Checkpoint(tmp_path)):
        before = checkpoint.bytes_read
        for part in ("gate", "up"):
            assert torch.equal(checkpoint.expert(layer, 3, part, 8, 24), whole[part][3, 8:24])
        assert torch.equal(checkpoint.expert(layer, 3, "down", 8, 24), whole["down"][3, :, 8:24])
        assert checkpoint.bytes_read - before == 3 * 16 * 128 * 4
        assert torch.equal(checkpoint.expert(layer, 5, "up"), whole["up"][5])
        with pytest.raises(CheckpointError, match="outside"):
            checkpoint.expert(layer, 0, "up", 0, size + 1)
        with pytest.raises(CheckpointError, match=r"expert 9|none of.*experts\.9"):
            checkpoint.expert(layer, 9, "down")


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_as_transformers_writes_them(family, make_checkpoint, tmp_path):
    from checkpoints import oracle_model

    model, _ = oracle_model(make_checkpoint(family))
    model.save_pretrained(tmp_path)
    ours, theirs = Checkpoint(make_checkpoint(family)), Checkpoint(tmp_path)
    for part in ("gate", "up", "down"):
        assert torch.equal(ours.expert("model.layers.0", 1, part), theirs.expert("model.layers.0", 1, part))
    assert torch.equal(ours.router("model.layers.0"), theirs.router("model.layers.0"))
