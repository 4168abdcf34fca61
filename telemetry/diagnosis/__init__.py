"""What a deployment loses and why: pure rules over a snapshot, each of which finds one cause or nothing."""

from telemetry.diagnosis.diagnose import diagnose
from telemetry.diagnosis.finding import Finding

__all__ = ["Finding", "diagnose"]
