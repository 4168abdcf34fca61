"""The dashboard without a terminal."""

from scenes import FAILED, LOADING, STEADY, STRAGGLER, scene

from tui.view.plain import deployment_lines, finding_lines, rank_lines


def test_one_line_a_rank():
    lines = rank_lines(scene(STEADY, "tp2pp2"))
    assert len(lines) == 4 + 2
    for word in ("rank 3", "p1t1", "READY", "util ", "bubble ", "all-reduce ", "tok/s", "mem 125Gi/131Gi"):
        assert word in lines[3]
    assert all(line.isprintable() for line in lines)


def test_width_emulation_and_unavailable():
    assert all(len(line) == 40 for line in rank_lines(scene(STEADY), 40))
    assert "emulated" in rank_lines(scene(STEADY, emulated=True))[0]
    assert "util --" in rank_lines(scene(LOADING))[0]


def test_a_line_a_deployment():
    assert "STARTING  load 45%" in deployment_lines(scene(LOADING))[0]
    assert "out of memory" in deployment_lines(scene(FAILED))[0]
    assert "running" in deployment_lines(scene(STEADY))[0]


def test_a_line_a_finding_the_most_costly_first():
    lines = finding_lines(scene(STRAGGLER, "tp4"))
    assert lines[0].startswith("qwen3-30b  warning  wait ")
    assert "for rank 3: it computes 1.3x its peers" in lines[0]
    assert ". Try: " in lines[0]
    assert lines[-1].startswith("llama-1b  good")
