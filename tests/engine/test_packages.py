"""Optional packages that are installed and that nothing asks for."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Thread

import pytest

from agfsync.engine.packages import _Silence

NOISY = """
import logging, sys, warnings
print("printed")
print("to stderr", file=sys.stderr)
warnings.warn("warned")
logging.getLogger(__name__).warning("logged")
nn = quantization = sys.modules[__name__]
"""


def install(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    (folder / f"{name}-0.50.0.dist-info").mkdir()
    (folder / f"{name}-0.50.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 0.50.0\n")


def run(folder: Path, program: str) -> "subprocess.CompletedProcess[str]":
    places = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r}); {program}"
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True
    )


def test_what_a_library_imports_unasked_is_silent(tmp_path: Path) -> None:
    install(tmp_path, "noisy", NOISY)
    install(tmp_path, "peft", "from peft import tuners\nimport logging")
    (tmp_path / "peft" / "tuners.py").write_text("import noisy, logging\nlogging.getLogger('peft').error('mended not')")
    done = run(tmp_path, "import agfsync, peft; print('noisy' in sys.modules); sys.stderr.write('end')")
    assert (done.stdout, done.returncode) == ("True\n", 0)
    assert done.stderr.endswith("end") and "logged" not in done.stderr and "warned" not in done.stderr


def test_what_a_user_imports_is_not(tmp_path: Path) -> None:
    install(tmp_path, "noisy", NOISY)
    done = run(tmp_path, "import agfsync, noisy")
    assert done.stdout == "printed\n" and all(word in done.stderr for word in ("to stderr", "warned", "logged"))


def test_a_library_that_fails_says_why(tmp_path: Path) -> None:
    install(tmp_path, "peft", "print('here')\nimport nowhere")
    done = run(tmp_path, "import agfsync, peft")
    assert done.stdout == "" and done.stderr.endswith("ModuleNotFoundError: No module named 'nowhere'\n")


@pytest.mark.slow
def test_diffusers_beside_an_installed_bitsandbytes_is_silent(tmp_path: Path) -> None:
    install(tmp_path, "bitsandbytes", NOISY)
    imports = "import agfsync; from diffusers import UNet2DConditionModel; print('bitsandbytes' in sys.modules)"
    done = run(tmp_path, imports)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_threads_that_import_at_once_leave_the_terminal_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    silence, both, streams = _Silence(), Barrier(2), (sys.stdout, sys.stderr)

    def hold(first: bool) -> None:
        with silence.held():
            both.wait()
            if not first:
                both.wait()
        if first:
            both.wait()

    threads = [Thread(target=hold, args=(first,)) for first in (True, False)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (sys.stdout, sys.stderr) == streams and logging.root.manager.disable == logging.NOTSET
