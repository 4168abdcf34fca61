"""The planner: every layout of a model on given hardware, predicted and explained. No torch, no device needed."""
