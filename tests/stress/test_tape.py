"""What a recording is called, and what goes into it, with a daemon that is not there."""

import json
from pathlib import Path

import msgspec
from test_steps import result

from profiles.report import RecordingReport
from runtime.client import DaemonError
from runtime.stress.progress import Recording
from runtime.stress.result import Second
from runtime.stress.tape import ATTACHMENT, MOST_ATTACHED, _end, unused


class Client:
    """Ends a recording as it is told to."""

    def __init__(self, answer: RecordingReport | DaemonError) -> None:
        self.answer, self.attached = answer, {}

    def stop_recording(self, name: str, attachments: dict[str, bytes]) -> RecordingReport:
        self.attached = attachments
        if isinstance(self.answer, DaemonError):
            raise self.answer
        return self.answer


def test_a_name_has_deployment_and_time_and_is_nobodys(tmp_path: Path):
    first = unused(tmp_path, "my/model", "tp2-c8")
    assert first.parent == tmp_path
    assert first.name.startswith("my_model-20")
    assert first.name.endswith("-tp2-c8.mcap")
    first.touch()
    second = unused(tmp_path, "my/model", "tp2-c8")
    second.with_name(second.name + ".part").touch()
    assert len({first, second, unused(tmp_path, "my/model", "tp2-c8")}) == 3


def test_the_figures_go_along_without_seconds_when_there_are_too_many(tmp_path: Path):
    report = RecordingReport("t", ["a.mcap", "a-2.mcap"], 1, 1, 1.0, 0)
    client = Client(report)
    found = _end(client, "t", Recording(str(tmp_path / "a.mcap")), result())
    assert (found.profiles, found.unrecorded) == (("a.mcap", "a-2.mcap"), "")
    assert json.loads(client.attached[ATTACHMENT])["timeline"]
    long = msgspec.structs.replace(result(), timeline=(Second(0, 1, 1, 0, 0, 2.0, 500.0, 500.0, None),) * 20_000)
    _end(client, "t", Recording(str(tmp_path / "a.mcap")), long)
    assert len(client.attached[ATTACHMENT]) < MOST_ATTACHED
    assert json.loads(client.attached[ATTACHMENT])["timeline"] == []


def test_a_recording_that_ended_before_is_said(tmp_path: Path):
    gone = Client(DaemonError("'t' is not being recorded"))
    path = tmp_path / "a.mcap"
    assert _end(gone, "t", Recording(str(path)), result()).profiles == ()
    path.touch()
    found = _end(gone, "t", Recording(str(path)), result())
    assert found.profiles == (str(path),)
    assert "ended before the load" in found.unrecorded
    full = Client(RecordingReport("t", [], 0, 0, 1.0, 0, error="No space left on device"))
    assert _end(full, "t", Recording(str(path)), result()).unrecorded == "No space left on device"
    assert _end(full, "t", Recording(why="not wanted"), result()).unrecorded == "not wanted"
