"""One small file per method; every module here is found and registered by `alignment.algorithm.get_algorithm`."""
