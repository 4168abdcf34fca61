from profile_runs import run_file

__all__ = ["run_file"]
