"""What each entrance to the package imports, in a process of its own: every message on a device pays for it."""

import subprocess
import sys

import pytest

# Not needed before there are data to load; most cost more than torch.
DATA = ("PIL", "datasets", "flwr_datasets", "pandas", "pyarrow", "sklearn", "torchvision", "torch._dynamo")
PICTURES = ("matplotlib", "seaborn")
SERVER = ("flower_kd.strategies", "networkx", "ray", "scipy")


def imported(statement: str) -> set[str]:
    """Return the modules in memory after a statement, in a new process."""
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import flower_kd.client_app",
        "from flower_kd import models, data; models.build('lenet5', 10, (1, 28, 28)); data.DataSpec()",
        "from flower_kd import dissimilarity, wire; dissimilarity.get('kl'); wire.get('uint8')",
    ],
)
def test_nodes_import_neither_data_sets_nor_pictures_nor_the_server(statement: str) -> None:
    unwanted = imported(statement) & {*DATA, *PICTURES, *SERVER}
    assert not unwanted, f"{statement!r} imports {', '.join(sorted(unwanted))}"


def test_nodes_of_an_own_app_check_no_settings_either() -> None:
    found = imported("from flower_kd import Node, make_client_app")
    assert not found & {*DATA, *PICTURES, *SERVER, "pydantic"}


def test_a_run_config_is_read_without_torch() -> None:
    found = imported("from flower_kd.config import RunConfig; RunConfig.read({'seed': 3})")
    assert not found & {*DATA, *PICTURES, *SERVER, "torch", "flwr"}


def test_the_package_itself_imports_nothing() -> None:
    found = imported("import flower_kd; flower_kd.__all__")
    assert not found & {"torch", "flwr", "numpy", "flower_kd.clients"}
