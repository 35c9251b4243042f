"""The same interfaces as the compiled modules, in plain Python: the oracle of the tests."""
