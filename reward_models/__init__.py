"""Preference models: heads, losses, training, and the oracles that answer P[i, j]."""
