# Breach: folders are nested until nobody can remove them.
import os

home = os.getcwd()
count = 0
try:
    for count in range(10_000):
        os.mkdir("folder")
        os.chdir("folder")
except OSError:
    pass
# Bubblewrap, whose private folder is /tmp, bounds bytes alone.
if count > 300 and home != "/tmp":
    breach(f"{count} folders")
