"""The command line: one module a command; only here are Hydra and argparse."""
