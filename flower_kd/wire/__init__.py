"""What travels as arrays: wire formats of logits and soft labels, weights, and the size of messages."""

from flower_kd.wire import codecs, compression, compressions, noise, symbolic  # these register codecs and compressions
from flower_kd.wire.codings import CODINGS, Coding
from flower_kd.wire.compression import COMPRESSIONS, Compression, Compressor, Shapes
from flower_kd.wire.formats import CODECS, LARGEST, Codec, WireFormat, decode, encode, get, names
from flower_kd.wire.last_rows import LastRows
from flower_kd.wire.records import (
    CODED,
    NUMBERS,
    Arrays,
    Layout,
    as_array,
    as_coded,
    canonical,
    check_layout,
    digest,
    layout,
    read,
    short_repr,
)
from flower_kd.wire.sizes import METADATA_BYTES, content_bytes, message_bytes, reply_bytes
from flower_kd.wire.weights import decode_weights, encode_weights, layout_of

__all__ = [
    "CODECS",
    "CODED",
    "CODINGS",
    "COMPRESSIONS",
    "LARGEST",
    "METADATA_BYTES",
    "NUMBERS",
    "Arrays",
    "Codec",
    "Coding",
    "Compression",
    "Compressor",
    "LastRows",
    "Layout",
    "Shapes",
    "WireFormat",
    "as_array",
    "as_coded",
    "canonical",
    "check_layout",
    "codecs",
    "compression",
    "compressions",
    "content_bytes",
    "decode",
    "decode_weights",
    "digest",
    "encode",
    "encode_weights",
    "get",
    "layout",
    "layout_of",
    "message_bytes",
    "names",
    "noise",
    "read",
    "reply_bytes",
    "short_repr",
    "symbolic",
]
