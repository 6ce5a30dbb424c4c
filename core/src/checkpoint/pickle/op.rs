//! The codes of a pickle's instructions, under the names of Python's `pickletools`.

macro_rules! codes {
    ($($name:ident = $code:literal,)*) => {
        $(pub const $name: u8 = $code;)*
    };
}

#[rustfmt::skip]
codes! {
    PROTO = 0x80, FRAME = 0x95, STOP = b'.',
    // The stack.
    MARK = b'(', POP = b'0', POP_MARK = b'1', DUP = b'2',
    // Numbers and truth values.
    NONE = b'N', NEWTRUE = 0x88, NEWFALSE = 0x89,
    INT = b'I', LONG = b'L', BININT = b'J', BININT1 = b'K', BININT2 = b'M', LONG1 = 0x8a,
    FLOAT = b'F', BINFLOAT = b'G',
    // Text; the last two are Python 2's strings, in which old files keep the names of parameters.
    UNICODE = b'V', BINUNICODE = b'X', SHORT_BINUNICODE = 0x8c, BINUNICODE8 = 0x8d,
    BINSTRING = b'T', SHORT_BINSTRING = b'U',
    // Bytes.
    BINBYTES = b'B', SHORT_BINBYTES = b'C', BINBYTES8 = 0x8e, BYTEARRAY8 = 0x96,
    // Tuples, lists, sets and dictionaries.
    EMPTY_TUPLE = b')', TUPLE = b't', TUPLE1 = 0x85, TUPLE2 = 0x86, TUPLE3 = 0x87,
    EMPTY_LIST = b']', LIST = b'l', EMPTY_SET = 0x8f, FROZENSET = 0x91, EMPTY_DICT = b'}', DICT = b'd',
    APPEND = b'a', APPENDS = b'e', ADDITEMS = 0x90, SETITEM = b's', SETITEMS = b'u',
    // The memo.
    PUT = b'p', BINPUT = b'q', LONG_BINPUT = b'r', MEMOIZE = 0x94,
    GET = b'g', BINGET = b'h', LONG_BINGET = b'j',
    // Names, calls and objects.
    GLOBAL = b'c', STACK_GLOBAL = 0x93,
    REDUCE = b'R', NEWOBJ = 0x81, NEWOBJ_EX = 0x92, OBJ = b'o', INST = b'i', BUILD = b'b', BINPERSID = b'Q',
}
