"""Nash alignment: algorithms, the round loop, and the exact matrix games they are checked on."""
