"""Profiles: recordings of telemetry that replay and compare."""
