"""`python -m flower_kd` is `flower-kd`."""

import signal


def main() -> None:
    """Run the command; Ctrl-C before it starts and after it ends prints no traceback."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from flower_kd.cli.commands import app

    app(prog_name="flower-kd")


if __name__ == "__main__":  # not in spawned processes
    main()
