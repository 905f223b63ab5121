"""Leaderboards: AlpacaEval 2, Arena-Hard, MT-Bench and custom benchmarks with honest uncertainty."""
