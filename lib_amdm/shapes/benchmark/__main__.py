from ...command_line import run
from .bench import main

run(main)
