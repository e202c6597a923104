"""What `import nas_engine` leaves for later: every worker process and every call of the command line pays for it."""

import os
import subprocess
import sys
from pathlib import Path

LATER = (
    "peft",
    "scipy.stats",
    "sklearn",
    "pymoo.algorithms.moo.age",
    "datasets",
    "lm_eval",
    "ray",
    "transformers.trainer",
)


def test_command_line_imports_nothing_that_only_some_commands_need() -> None:
    code = f"import sys, nas_engine.cli; print([name for name in {LATER} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
