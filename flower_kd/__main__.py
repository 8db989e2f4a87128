"""`python -m flower_kd` is `flower-kd`."""

from flower_kd.sim.cli import app

if __name__ == "__main__":  # not in the processes that it spawns
    app(prog_name="flower-kd")
