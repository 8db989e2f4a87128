"""What the server computes itself, and what it leaves to the nodes."""

from pathlib import Path

import pytest
from conftest import build_same_model_node

from flower_kd import server_app
from flower_kd.clients import make_client_app
from flower_kd.config import RunConfig
from flower_kd.runs.identity import identity
from flower_kd.runs.run_folder import RunFolder
from flower_kd.sim import InProcessGrid


@pytest.mark.parametrize("strategy", ["d-sgd", "fedavg", "silo"])
def test_the_server_needs_no_data(strategy: str, tmp_path: Path) -> None:
    config = RunConfig(strategy=strategy, dataset="./no-such-folder", num_server_rounds=2, local_steps=2)
    grid = InProcessGrid(make_client_app(build_same_model_node), 4, {})
    with RunFolder(tmp_path / "run", config, identity(config, 4)) as folder:
        record, alone = server_app.run(grid, config, 4, folder)
    assert len(record.final("test-accuracy")) == 4
    assert (alone is None) == (strategy == "silo")
    if alone is not None:
        assert record.final("test-accuracy") != alone.final("test-accuracy")
