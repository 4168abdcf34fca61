"""A model and a machine that need not exist, for launching ranks without a model."""

from runtime.checkpoint.config import ModelShape, RopeScaling
from runtime.daemon.settle import Machine

SHAPE = ModelShape(
    family="llama",
    hidden_size=32,
    intermediate_size=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=64,
    max_position=512,
    rms_norm_eps=1e-5,
    rope=RopeScaling(),
    tie_embeddings=False,
    attention_bias=False,
    qk_norm=False,
    sliding_windows=(None,) * 4,
    dtype="float32",
    eos_token_ids=(2,),
    bos_token_id=1,
)
MACHINE = Machine(gpus=0, cpus=(0, 1), cores=(0, 1), quota=None, architecture="x86_64", memory=2**34)
