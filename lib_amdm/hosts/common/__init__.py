"""The parts that the WebUIs share: A1111 and its relatives have modules of the same names."""
