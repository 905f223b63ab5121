"""prefeval: train preference models, align policies against them, benchmark the result."""

__version__ = "0.1.0"
