# First in every process: the two settings of the environment have done their work, and the folder is not for imports.
import posix
import sys

for name in list(posix.environ):
    posix.unsetenv(name)
posix.environ.clear()
sys.path[:] = [folder for folder in sys.path if folder]
