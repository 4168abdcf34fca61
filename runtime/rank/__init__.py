"""A rank: one process, one device, one shard."""
