"""Optional packages that are installed and that nothing asks for."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agfsync.engine.packages import mute_libraries

NOISY = """
import logging
logging.getLogger(__name__).warning("logged")
logging.getLogger(__name__).error("failed")
"""


def test_the_command_line_shows_the_errors_of_libraries_and_not_their_warnings(tmp_path: Path) -> None:
    """diffusers imports bitsandbytes where it is installed; any module stands for it here."""
    (tmp_path / "noisy.py").write_text(NOISY)
    program = "from agfsync import cli; cli.find_exit_code = lambda code: __import__('noisy'); cli.main(['--version'])"
    places = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2] / "src")])
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True
    )
    assert (done.stderr, done.returncode) == ("failed\n", 0)


def test_a_program_that_calls_the_command_line_logs_as_before(caplog: pytest.LogCaptureFixture) -> None:
    with mute_libraries():
        logging.getLogger("noisy").warning("muted")
    logging.getLogger("noisy").warning("logged")
    assert [record.message for record in caplog.records] == ["logged"]
