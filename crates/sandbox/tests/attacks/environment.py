# Breach: a variable of the caller's environment is seen.
import ctypes
import os

if os.environ or os.environb:
    breach(dict(os.environ))
library = ctypes.CDLL(None)
library.getenv.restype = ctypes.c_char_p
for name in ("HOME", "PATH", "USER", "HF_TOKEN", "PWD", "LANG", "SHARELORA_MIRROR"):
    if library.getenv(name.encode()):
        breach(name)
