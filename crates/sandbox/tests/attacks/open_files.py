# Breach: descriptors without end.
import os

files = []
try:
    for _ in range(10_000):
        files.append(os.dup(1))
except OSError:
    pass
if len(files) > 64:
    breach(f"{len(files)} descriptors")
for file in files:
    os.close(file)
