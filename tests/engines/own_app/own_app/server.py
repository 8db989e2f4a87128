"""The strategy: the topology, and the dissimilarity of teachers and students."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from flower_kd import NeighborKD, topology

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    ring = topology.build("ring", num_nodes=len(list(grid.get_node_ids())))
    strategy = NeighborKD(ring, dissimilarity="js", temperature=2.0, alpha=0.5, rho=4.0, local_steps=10)
    rounds = context.run_config["num-server-rounds"]
    result = strategy.start(grid, ArrayRecord(), num_rounds=rounds)
    accuracy = result.evaluate_metrics_clientapp
    print(f"first accuracy {accuracy[1]['accuracy']:.3f} final accuracy {accuracy[rounds]['accuracy']:.3f}")
