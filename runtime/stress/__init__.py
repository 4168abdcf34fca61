"""Load on a deployment over its HTTP API, and what its clients would see of it."""
