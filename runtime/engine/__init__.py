"""The engine: queue, scheduler, KV blocks. Torch-free; it decides, ranks obey."""
