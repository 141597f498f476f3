# Breach: a descriptor of the caller is open. (Seen where the program is run by itself.)
import os

for fd in range(3, 1024):
    attempt(f"descriptor {fd}", lambda: os.fstat(fd))
