"""Broken files and configurations, each with the one line that the product must answer it with.

    python -m tests.corpus              # from the root of the checkout: run all, print the table with counts
    pytest tests/corpus                 # the same as tests

A case is data (`case.Case`): the files that it needs, the command, and the message word for word. The areas are the
modules beside this one.
"""
