"""The daemon: launches and supervises ranks, serves HTTP, gathers telemetry."""
