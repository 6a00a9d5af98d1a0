from pathlib import Path

from agfsync.training.metrics import MetricsLog, read_metrics


def test_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "training" / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        for step in (1, 2, 3):
            log.write({"step": step})
        log.flush()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    with MetricsLog(path, 2) as log:
        log.write({"step": 3, "loss": 0.5})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5}]


def test_starting_afresh_empties_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with MetricsLog(path, 0):
        assert path.read_text() == ""
