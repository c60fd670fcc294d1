"""Importing the library that quantises."""

import subprocess
import sys

LOOK = """
import os
import sys
from trainables.base.devices import SWITCH, import_bitsandbytes
os.environ.pop(SWITCH, None)
import_bitsandbytes()
print("bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules, SWITCH in os.environ)
"""


def test_bitsandbytes_comes_without_the_compiler():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
