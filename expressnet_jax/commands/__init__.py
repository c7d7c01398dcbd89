"""The commands of `expressnet`, one file each: `add` says what arguments a command takes, `run` carries it out.

Nothing heavy is imported before a command runs, so that `--help` does not wait for JAX.
"""
