import sys

from ..command_line import run
from .command import main

run(lambda: main(sys.argv[1:]))
