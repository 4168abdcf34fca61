"""The model: parallel layers and one decoder for every family."""
