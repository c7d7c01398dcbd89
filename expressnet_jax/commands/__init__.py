"""The commands of `expressnet`, one file each.

A file's docstring is what `--help` says: the command's purpose, and an example. `add` adds its arguments to a parser,
and `run` carries it out. Nothing heavy is imported before that, so that `--help` does not wait for JAX.
"""
