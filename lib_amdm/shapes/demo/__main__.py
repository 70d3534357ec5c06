from ...command_line import run
from .demo import main

run(main)
