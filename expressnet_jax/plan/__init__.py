"""What a training step will cost on a machine that is not here: memory, arithmetic, collectives, a bound on speed."""
