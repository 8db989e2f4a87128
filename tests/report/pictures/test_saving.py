import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from histories import history

from flower_kd import folders
from flower_kd.report import pictures

SCRIPT = """
import hashlib, sys
from histories import history
from flower_kd import topology
from flower_kd.report import pictures
runs = {"a": [history(), history(shift=0.1)], "b": [history()]}
finals = {label: pictures.Final(topology.build("ring", 4), [0.1, 0.2, None, 0.4]) for label in runs}
for name, content in pictures.files(pictures.comparison(runs, finals), "x").items():
    print(name, hashlib.sha256(content).hexdigest())
"""


def drawn() -> dict[str, bytes]:
    return pictures.files(pictures.accuracy_by_round({"neighbor-kd": [history()]}, "digits"), "accuracy")


def test_a_picture_is_three_files_of_known_names() -> None:
    files = drawn()
    assert tuple(files) == folders.picture_names("accuracy") == ("accuracy.png", "accuracy.pdf", "accuracy.svg")
    assert files["accuracy.png"].startswith(b"\x89PNG")
    assert files["accuracy.pdf"].startswith(b"%PDF")
    assert b"<svg" in files["accuracy.svg"]


def test_pictures_have_the_size_of_a_column_at_300_dots_per_inch() -> None:
    png = drawn()["accuracy.png"]
    assert int.from_bytes(png[16:20], "big") == round(3.4 * 300)
    assert round(int.from_bytes(png[png.index(b"pHYs") + 4 :][:4], "big") * 0.0254) == 300


def test_text_stays_text() -> None:
    files = drawn()
    assert re.search(r"<text[^>]*>neighbor-kd</text>", files["accuracy.svg"].decode())
    assert b"/FontFile2" in files["accuracy.pdf"]  # TrueType; Type 3 fonts would have no font file
    assert b"/Type3" not in files["accuracy.pdf"]


@pytest.mark.filterwarnings("ignore")
def test_equal_figures_are_equal_files_in_every_process() -> None:
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": paths}
    there = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    with redirect_stdout(io.StringIO()) as here:
        exec(SCRIPT, {})
    assert here.getvalue().count("\n") == 3
    assert there.stdout == here.getvalue()
    assert b"CreationDate" not in drawn()["accuracy.pdf"]


def test_settings_of_the_caller_do_not_matter() -> None:
    import matplotlib

    expected = drawn()
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other", "pdf.fonttype": 3}):
        assert drawn() == expected
