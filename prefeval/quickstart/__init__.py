"""The quickstart: embedded prompts and responses, their ground-truth judge, and the steps of the demonstration."""
