"""The results of a study: the table, and its page."""

from pathlib import Path

from agfsync.study.settings import Study
from agfsync.study.table import make_cells, write_table
from agfsync.study.values import gather_results

TABLE_FILE, PAGE_FILE = "table.parquet", "study.html"


def write_results(path: Path, study: Study) -> None:
    """Write the table and the page of the study at `path`, as far as it got."""
    results = gather_results(path, study)
    write_table(make_cells(results), path / TABLE_FILE)
