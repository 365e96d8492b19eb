"""Run a program that may write no file beyond a size: python limited.py BYTES PROGRAM [arguments]."""

import resource
import runpy
import sys
from pathlib import Path

size, program = int(sys.argv[1]), Path(__file__).resolve().parents[2] / sys.argv[2]
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sys.argv = sys.argv[2:]
sys.path.insert(0, str(program.parent))
runpy.run_path(str(program), run_name='__main__')
