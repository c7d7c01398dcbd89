"""ExpressNet-MoE for facial-expression recognition, in JAX (Banerjee, Gothwal, Biswas; arXiv 2510.13493)."""

__version__ = "0.1.0"
