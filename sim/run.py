"""Run an experiment file in process: every run of it with every seed, and a table of means over seeds."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

import numpy as np

from flower_kd import sim


def main() -> None:
    """Run what the command line says; finished runs in the output folder are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", type=Path, help="a TOML file with [common] and [runs.NAME] tables")
    parser.add_argument("--num-nodes", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dataset", help="in place of the file's, such as a local folder")
    parser.add_argument("--only", nargs="+", help="names of the runs, default all")
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    options = parser.parse_args()
    experiment = tomllib.loads(options.experiment.read_text())
    own = {"dataset": options.dataset} if options.dataset else {}
    print("| run | accuracy, mean (min to max over seeds) | spread over nodes | MB per edge | seconds |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.only or experiment["runs"]:
        summaries = []
        for seed in options.seeds:
            folder = options.output_dir / options.experiment.stem / f"{name}-seed{seed}"
            if not (folder / "summary.json").exists():
                config = experiment["common"] | experiment["runs"][name] | own | {"seed": seed}
                sim.run(config, options.num_nodes, folder)
            summaries.append(json.loads((folder / "summary.json").read_text()))
        means = [summary["accuracy"]["mean"] for summary in summaries]
        spread = np.mean([summary["accuracy"]["std"] for summary in summaries])
        megabytes = np.mean([summary["bytes"]["per_edge"] for summary in summaries]) / 1e6
        seconds = np.mean([summary["seconds"]["total"] for summary in summaries])
        print(
            f"| {name} | {np.mean(means):.3f} ({min(means):.3f} to {max(means):.3f}) | {spread:.3f} | "
            f"{megabytes:.2f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
