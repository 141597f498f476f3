# Breach: there are more files than allowed. (256.)
import os

home = os.getcwd()
count = 0
try:
    for count in range(10_000):
        open(f"file{count}", "w").close()
except OSError:
    pass
# Bubblewrap, whose private folder is /tmp, bounds bytes alone.
if count > 300 and home != "/tmp":
    breach(f"{count} files")
