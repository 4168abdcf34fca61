from profile_runs import moe_file, run_file

__all__ = ["moe_file", "run_file"]
