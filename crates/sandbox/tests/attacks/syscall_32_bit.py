# Breach: the 32-bit gate, whose numbers mean other calls, is open. (20 is getpid there and writev here.)
# End: any
import ctypes
import mmap

attempted()
if X86:
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # mov eax, 20; int 0x80; ret
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    breach(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
