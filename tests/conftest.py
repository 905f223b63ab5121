"""Shared fixtures live in modules beside this file (`from tiny import ...`): pytest puts this folder on the path."""
