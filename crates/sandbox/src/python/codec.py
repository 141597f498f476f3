# Plain data between the judge and the worker: strict, length-limited, no pickle and no eval.
#
# A frame is a length (4 bytes, little endian) and so many bytes. A value is a tag and its content: N T F; i, s, b, f and D
# (decimal.Decimal) with a length and bytes; c and R (fractions.Fraction) with two values; l t S (set) Z (frozenset) d with
# a count and values; o, an object of any other class, with its truth. A subclass is sent as its base, so no method of
# the program reaches the judge. The same text runs on both sides; only the judge's decoding has to withstand anything.

LIMIT = 8 << 20
DEPTH = 100


class Closed(Exception):
    """The other side has closed its end."""


class Malformed(Exception):
    """The bytes are not a value."""


class Opaque:
    """Stands for an object that is not plain data: equal to nothing, and as true as the original."""

    __slots__ = ("truth",)

    def __init__(self, truth):
        self.truth = truth

    def __eq__(self, other):
        return False

    def __ne__(self, other):
        return True

    __hash__ = object.__hash__

    def __bool__(self):
        return self.truth


def number(value):
    return value.to_bytes(4, "little")


def encode(value, out, depth=0):
    """Appends a value to a bytearray. ValueError for one that is too large or too deep."""
    if depth > DEPTH or len(out) > LIMIT:
        raise ValueError("the value is too large")
    if value is None:
        out += b"N"
    elif value is True:
        out += b"T"
    elif value is False:
        out += b"F"
    elif isinstance(value, int):
        size = int.bit_length(value) // 8 + 1
        part(b"i", int.to_bytes(value, size, "little", signed=True), out)
    elif isinstance(value, float):
        part(b"f", float.hex(value).encode(), out)
    elif isinstance(value, complex):
        out += b"c"
        for piece in (complex.real.__get__(value), complex.imag.__get__(value)):
            encode(piece, out, depth + 1)
    elif isinstance(value, str):
        part(b"s", str.encode(value, "utf-8", "surrogatepass"), out)
    elif isinstance(value, (bytes, bytearray)):
        part(b"b", bytes(memoryview(value)), out)
    elif isinstance(value, list):
        several(b"l", list.__iter__(value), list.__len__(value), out, depth)
    elif isinstance(value, tuple):
        several(b"t", tuple.__iter__(value), tuple.__len__(value), out, depth)
    elif isinstance(value, set):
        several(b"S", set.__iter__(value), set.__len__(value), out, depth)
    elif isinstance(value, frozenset):
        several(b"Z", frozenset.__iter__(value), frozenset.__len__(value), out, depth)
    elif isinstance(value, dict):
        out += b"d" + number(dict.__len__(value))
        for key, item in dict.items(value):
            encode(key, out, depth + 1)
            encode(item, out, depth + 1)
    elif isinstance(value, known("decimal", "Decimal")):
        part(b"D", known("decimal", "Decimal")[0].__str__(value).encode(), out)
    elif isinstance(value, known("fractions", "Fraction")):
        out += b"R"
        encode(value.numerator, out, depth + 1)
        encode(value.denominator, out, depth + 1)
    else:
        out += b"o"
        encode(bool(value), out, depth + 1)


def known(module, name):
    """The class in a tuple if its module is loaded, and else nothing: no value can be of it then."""
    module = sys.modules.get(module)
    return (getattr(module, name),) if module else ()


def part(tag, content, out):
    if len(content) > LIMIT:
        raise ValueError("the value is too large")
    out += tag + number(len(content)) + content


def several(tag, items, count, out, depth):
    out += tag + number(count)
    for item in items:
        encode(item, out, depth + 1)


def decode(data):
    """The one value that the bytes are. Malformed for any others."""
    value, end = decode_at(data, 0, 0)
    if end != len(data):
        raise Malformed("bytes behind the value")
    return value


def decode_at(data, at, depth):
    if depth > DEPTH:
        raise Malformed("too deep")
    tag = data[at : at + 1]
    at += 1
    if tag == b"N":
        return None, at
    if tag == b"T":
        return True, at
    if tag == b"F":
        return False, at
    if tag in (b"i", b"f", b"s", b"b", b"D"):
        size, at = length(data, at)
        content = data[at : at + size]
        if len(content) != size:
            raise Malformed("cut off")
        at += size
        if tag == b"i":
            return int.from_bytes(content, "little", signed=True), at
        if tag == b"f":
            return float.fromhex(content.decode("ascii")), at
        if tag == b"s":
            return content.decode("utf-8", "surrogatepass"), at
        if tag == b"b":
            return content, at
        from decimal import Decimal

        return Decimal(content.decode("ascii")), at
    if tag in (b"c", b"R"):
        first, at = decode_at(data, at, depth + 1)
        second, at = decode_at(data, at, depth + 1)
        kind = float if tag == b"c" else int
        if type(first) is not kind or type(second) is not kind:
            raise Malformed("not two numbers")
        if tag == b"c":
            return complex(first, second), at
        from fractions import Fraction

        return Fraction(first, second), at
    if tag in (b"l", b"t", b"S", b"Z"):
        count, at = length(data, at)
        items = []
        for _ in range(count):
            item, at = decode_at(data, at, depth + 1)
            items.append(item)
        return {b"l": list, b"t": tuple, b"S": set, b"Z": frozenset}[tag](items), at
    if tag == b"d":
        count, at = length(data, at)
        items = {}
        for _ in range(count):
            key, at = decode_at(data, at, depth + 1)
            items[key], at = decode_at(data, at, depth + 1)
        return items, at
    if tag == b"o":
        truth, at = decode_at(data, at, depth + 1)
        return Opaque(truth is True), at
    raise Malformed("no such tag")


def length(data, at):
    content = data[at : at + 4]
    if len(content) != 4:
        raise Malformed("cut off")
    return int.from_bytes(content, "little"), at + 4


def send(fd, payload):
    left = memoryview(number(len(payload)) + payload)
    while left:
        try:
            left = left[posix.write(fd, left) :]
        except BrokenPipeError:
            raise Closed from None


def receive(fd):
    size = int.from_bytes(read(fd, 4), "little")
    if size > 2 * LIMIT:
        raise Malformed("too large")
    return read(fd, size)


def read(fd, size):
    pieces = bytearray()
    while len(pieces) < size:
        piece = posix.read(fd, min(size - len(pieces), 1 << 16))
        if not piece:
            raise Closed
        pieces += piece
    return bytes(pieces)
