"""From pictures on a disk to batches of uint8 on a host. Imports no jax and nothing of expressnet_jax."""
