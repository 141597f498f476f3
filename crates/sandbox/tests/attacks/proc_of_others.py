# Breach: what the kernel says of another process can be read.
import os

for pid in (1, os.getppid(), os.getpid() + 1, os.getpid() - 1):
    for name in ("mem", "environ", "maps", "cmdline", "status", "stat", "auxv"):
        attempt(f"/proc/{pid}/{name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ("fd", "task", "root", "cwd", "map_files"):
        attempt(f"/proc/{pid}/{name}", lambda: os.listdir(f"/proc/{pid}/{name}"))
    for name in ("root", "cwd", "exe", "fd/0", "fd/1"):
        attempt(f"/proc/{pid}/{name}", lambda: os.readlink(f"/proc/{pid}/{name}"))
