"""Telemetry: what ranks and engines measure, how it travels, and what it folds into."""
