# Breach: a folder outside is listed. (Bubblewrap makes folders on the way to what it shows; their names are no breach.)
import os

made = set("usr bin lib lib32 lib64 local tmp".split())
for name in ("/", "/root", "/home", "/etc", "/var", "/usr", "/dev", "/sys", os.path.expanduser("~"), "../.."):
    attempt(name, lambda: 1 / len(set(os.listdir(name)) - made))
