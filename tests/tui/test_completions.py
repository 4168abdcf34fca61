"""Paths of checkpoints, completed as they are typed."""

from fake_machine import written

from tui import checkpoints


def test_completions_are_directories_checkpoints_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    model = written(tmp_path / "models" / "b-model")
    (tmp_path / "models" / "a-folder").mkdir()
    (tmp_path / "models" / "file").touch()
    (tmp_path / "models" / ".hidden").mkdir()
    place = str(tmp_path / "models") + "/"
    assert checkpoints.completions(place) == [str(model), place + "a-folder/"]
    assert checkpoints.completions(place + "b") == [str(model)]
    assert checkpoints.completed(place + "b", checkpoints.completions(place + "b")) == str(model)
    assert checkpoints.completed(place, checkpoints.completions(place)) == place
    assert checkpoints.completions(str(tmp_path / "nowhere" / "x")) == []
    assert checkpoints.completions("") == []
    checkpoints.remember("/gone")
    checkpoints.remember(str(model))
    assert checkpoints.completions("") == [str(model)]
