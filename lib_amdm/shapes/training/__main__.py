from ...command_line import run
from .train import main

run(main)
