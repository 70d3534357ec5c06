import sys

from lib_amdm.command_line import run

from .cli import main

run(lambda: main(sys.argv[1:]))
