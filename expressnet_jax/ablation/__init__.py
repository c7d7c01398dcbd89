"""Studies: many runs that differ in a few settings, and what the differences are worth."""
