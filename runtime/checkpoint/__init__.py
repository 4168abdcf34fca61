"""A Hugging Face checkpoint directory as it is on disk: configuration, tokenizer, weights."""
