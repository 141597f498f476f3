# Breach: the private folder of another program is seen.
import glob
import os

if os.getcwd() != "/tmp":
    others = [path for path in glob.glob("/tmp/.tmp*/*") + glob.glob("../../*") if not os.getcwd().startswith(path)]
    if others:
        breach(others)
    attempt("folder above", lambda: os.listdir("../.."))
