"""After a warm start the app's own flower_kd is used where it differs, as after a cold one."""

import shutil
import subprocess
import sys
from pathlib import Path

import flower_kd

SCRIPT = """
import sys
from flower_kd import errors
from flower_kd.device import app_modules
before = errors.InputError
app_modules.prefer_those_of_the_app()
sys.path.insert(0, sys.argv[1])
import importlib
again = importlib.import_module("flower_kd.errors")
import flower_kd
print(again.InputError is before, getattr(flower_kd, "CHANGED", False), flower_kd.__file__)
"""


def imported(app: Path) -> tuple[list[str], str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(app)], capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


def copied(app: Path) -> Path:
    installed = Path(flower_kd.__file__).parent
    return Path(shutil.copytree(installed, app / "flower_kd", ignore=shutil.ignore_patterns("__pycache__")))


def test_an_app_without_the_package_gets_what_is_imported(tmp_path: Path) -> None:
    assert imported(tmp_path) == (["True", "False", flower_kd.__file__], "")


def test_an_app_with_the_same_code_gets_what_is_imported(tmp_path: Path) -> None:
    copied(tmp_path)
    assert imported(tmp_path) == (["True", "False", flower_kd.__file__], "")


def test_an_app_with_other_code_gets_its_own(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    with (copy / "__init__.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    said, warning = imported(tmp_path)
    assert said == ["False", "True", str(copy / "__init__.py")]
    assert "the app has a flower_kd of its own" in warning


def test_an_app_with_a_further_module_gets_its_own(tmp_path: Path) -> None:
    (copied(tmp_path) / "further.py").touch()
    assert imported(tmp_path)[0][0] == "False"
