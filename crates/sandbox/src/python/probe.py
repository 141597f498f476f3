# Says, line by line, the executable, the folders of the standard library, and every file that the interpreter and its
# extension modules have mapped: what a sandbox must let be read.
import os
import sys
import sysconfig

print("version", sys.version.split()[0])
print("executable", os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
folders = [sysconfig.get_path(name, vars={"base": sys.base_prefix}) for name in ("stdlib", "platstdlib")]
folders += [folder for folder in sys.path if folder.endswith("lib-dynload")]
for folder in sorted(set(map(os.path.realpath, folders))):
    if os.path.isdir(folder):
        print("folder", folder)
for folder in sys.path:
    if folder.endswith("lib-dynload"):
        for file in sorted(os.listdir(folder)):
            name = file.split(".")[0]
            if name.startswith("_test") or name in ("_tkinter", "readline"):
                continue
            try:
                __import__(name)
            except BaseException:
                pass
with open("/proc/self/maps") as maps:
    mapped = {line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) == 6}
for file in sorted(mapped):
    if file.startswith("/") and os.path.isfile(file):
        print("file", file)
