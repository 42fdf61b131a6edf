"""What is sent: frames, arguments, paths, images, schemas, from valid to vicious."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

from fuzz_trees import SECRETS, Tree
from hypothesis import strategies as st
from PIL import Image

Json = Any

# --- values ---------------------------------------------------------------------------------------------------

NASTY_TEXTS = (
    "", " ", "\0", "\ud800", "\U0001f600" * 50, "a" * 70_000, "</file>", "<start_of_turn>model\n", "<bos>", "%s%n",
    "{{7*7}}", "../../canary.txt", "null", "NaN", "\r\n", "\u202e", "[" * 300, "e" + "\u0301" * 200, "-1", "1e999",
)  # fmt: skip

texts = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(max_size=200))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((0, -1, 2**31, 2**63, 2**64, 10**40, -(10**40))),
    st.floats(),
    texts,
)
values: st.SearchStrategy[Json] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)

# --- frames ---------------------------------------------------------------------------------------------------

METHODS = (
    "initialize", "ping", "tools/list", "tools/call", "server/discover", "notifications/initialized",
    "notifications/cancelled", "notifications/progress", "resources/list", "resources/read", "prompts/get",
    "completion/complete", "logging/setLevel", "subscriptions/listen", "tasks/get", "tasks/cancel", "", "no/such",
)  # fmt: skip
ODD_IDENTITIES: tuple[Json, ...] = ("", "x", "check-1", 0, None, 1.5, True, [], {}, 2**70, "y" * 9000)
identities: st.SearchStrategy[Json] = st.one_of(st.integers(-3, 3), st.sampled_from(ODD_IDENTITIES))
VERSIONS: tuple[Json, ...] = ("2.0", "2.0", "2.0", "1.0", 2.0, None)
names: st.SearchStrategy[Json] = st.one_of(st.sampled_from(("generate_text", "chat", "nothing")), scalars)
metas: st.SearchStrategy[Json] = st.one_of(values, st.fixed_dictionaries({"progressToken": scalars}))
PARAMETERS: dict[str, st.SearchStrategy[Json]] = {
    "name": names,
    "arguments": values,
    "requestId": identities,
    "uri": texts,
    "protocolVersion": texts,
    "_meta": metas,
}
FIELDS: dict[str, st.SearchStrategy[Json]] = {
    "jsonrpc": st.sampled_from(VERSIONS),
    "id": identities,
    "method": st.one_of(st.sampled_from(METHODS), scalars),
    "params": st.one_of(values, st.fixed_dictionaries({}, optional=PARAMETERS)),
    "result": values,
    "error": values,
}
fields: st.SearchStrategy[Json] = st.fixed_dictionaries({}, optional=FIELDS)


def frame(message: Json) -> bytes:
    """As a client sends it; what JSON has no word for comes out as Python spells it."""
    return json.dumps(message).encode() + b"\n"


def deep(levels: int) -> bytes:
    """A request whose arguments are nested so deep."""
    head = b'{"jsonrpc": "2.0", "id": "deep", "method": "tools/call", "params": {"name": "chat", "arguments": '
    return head + b'{"message": ' + b"[" * levels + b"]" * levels + b"}}}\n"


def huge(size: int) -> bytes:
    """A request with so many bytes of prompt."""
    return frame(
        {"jsonrpc": "2.0", "id": "huge", "method": "tools/call",
         "params": {"name": "generate_text", "arguments": {"prompt": "x" * size, "max_tokens": 1}}}
    )  # fmt: skip


frames = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda data: data + b"\n"),
    fields.map(frame),
    fields.map(frame),
    st.tuples(fields.map(frame), st.integers(0, 200)).map(lambda cut: cut[0][: cut[1]]),
    st.lists(fields, max_size=5).map(frame),
    values.map(frame),
    st.sampled_from((50, 150, 250, 2_000, 50_000)).map(deep),
    st.sampled_from((10_000, 200_000, 3_000_000)).map(huge),
    st.just(b"\n\r\n\xef\xbb\xbf{}\n"),
)

# --- arguments ------------------------------------------------------------------------------------------------

prompts = texts.filter(lambda text: not text.startswith("!"))  # no orders to the echo model


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Json]:
    """Values of a published schema's type, out of bounds now and then."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(fitting, schema["anyOf"]))
    kinds: dict[str, st.SearchStrategy[Json]] = {
        "string": prompts,
        "integer": st.integers(-10, 3000),
        "number": st.floats(-1, 100),
        "boolean": st.booleans(),
        "object": st.dictionaries(st.text(max_size=5), scalars, max_size=3),
    }
    if schema.get("type") == "array":
        return st.lists(fitting(schema["items"]), max_size=4)
    return kinds.get(schema.get("type", ""), values)


def arguments(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Json]]:
    """A call's arguments: most of them fit, any may be missing or absurd, and some are unknown."""
    safe = values.filter(lambda value: not str(value).startswith("!"))
    known = {
        name: st.one_of(fitting(part), fitting(part), safe)
        for name, part in schema["properties"].items()
        if name != "model"  # the starter would be loaded
    }
    required = {name: known.pop(name) for name in schema.get("required", ()) if name in known}
    nearly = st.fixed_dictionaries(required, optional=known)
    stray = st.dictionaries(st.text(max_size=12), values, max_size=1)
    return st.one_of(nearly, nearly, st.tuples(nearly, stray).map(lambda both: both[1] | both[0]), stray)


# --- paths ----------------------------------------------------------------------------------------------------

PIECES = (
    "..", ".", "/", "\\", "a.txt", "src", "src/b.py", "link.txt", "folder", "src/up", "canary.txt", "outside", "fifo",
    "project-evil", "~", "$HOME", "%2e%2e", "%2f", "\0", "file://", "C:", "\\\\?\\", "\\\\host\\share", "NUL", "CON",
    ":1-5", ":0", ":999999999", "::$DATA", "**", "*", "?", "[a-z]*", "{a,b}", "git:diff", "git:diff --staged",
    "git:show HEAD:", "git:show --no-index /dev/null ", "/dev/stdin", "/dev/zero", "/proc/self/environ",
    "/proc/self/cwd", "/proc/self/root", "/etc/passwd", "harmless.txt", "build", ".git", "config", "HEAD", "sub",
    ".ssh",
    "\uff0e\uff0e", "\u2024\u2024", "\u202e", " ", "\n", "-", "--", "@", "'", '"',
)  # fmt: skip


def paths(tree: Tree) -> st.SearchStrategy[str]:
    """Ways to what lies outside, direct and crooked."""
    pieces = st.one_of(st.sampled_from((*PIECES, str(tree.outside), str(tree.project))), st.text(max_size=8))
    joined = st.tuples(st.sampled_from(("", "/", "\\", "/../")), st.lists(pieces, min_size=1, max_size=6))
    return joined.map(lambda parts: parts[0].join(parts[1]))


# --- git ------------------------------------------------------------------------------------------------------

REVISIONS = (
    "HEAD", "HEAD~1", "HEAD~2", "HEAD~3", "HEAD^2", "HEAD~1^2", "@", "@{1}", "HEAD@{1}", "main", "side", "v1", "stash",
    "stash@{0}", "stash^2", "stash^3", "stash^{tree}", "main^{tree}", "refs/stash", "ORIG_HEAD", ":0", ":1", ":/first",
    "HEAD:", "HEAD^{/first}", "HEAD^!", "HEAD^@", "--all", "-p", "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
)  # fmt: skip
ANY_PATHS = (
    *SECRETS, ".ENV", "./.env", "src/../.env", ".env/", ".env ", "a.txt", ".", "..", "", "*", "**", ":", ":(top)", ":/",
    ":!a.txt", ":(exclude)a.txt", ":^a.txt", ":(icase).ENV", ":(glob)**/*", ":(attr:x)", ":(literal).env", "?env",
    ".en[v]",
    "../outside/canary.txt", "../outside", "../project/.env", "project/.env", "outside/canary.txt", "link.txt",
    "harmless.txt", "folder/canary.txt", ".git/config", "src", "sub", "sub/.ssh", "'.env'", "\".env\"", ".en\\v",
)  # fmt: skip
GIT_OPTIONS = (
    "--staged", "--cached", "--no-index", "--output=x", "-O.env", "--ext-diff", "--textconv", "-M", "-C",
    "--find-copies-harder", "--word-diff", "-S", "--relative=..", "--no-relative", "-R", "--text", "-a", "--cc", "-m",
)  # fmt: skip


def git_specs() -> st.SearchStrategy[str]:
    """Entries of the grammar with revisions and paths that lead to secrets, and things that are nearly of it."""
    revisions, some_paths = st.sampled_from(REVISIONS), st.sampled_from(ANY_PATHS)
    between = st.sampled_from(("..", "...", " ", "^"))
    ranges = st.one_of(st.just(""), revisions, st.tuples(revisions, between, revisions).map("".join))
    flags = st.one_of(st.just(""), st.sampled_from(("--staged", "--cached")), st.sampled_from(GIT_OPTIONS))
    narrowed = st.lists(some_paths, max_size=3).map(lambda names: f"-- {' '.join(names)}" if names else "")
    diffs = st.tuples(st.just("git:diff"), flags, ranges, narrowed).map(" ".join)
    files = st.tuples(revisions, some_paths).map(":".join)
    shows = st.one_of(revisions, files, files, ranges).map("git:show {}".format)
    lines = st.sampled_from(("", "", "", ":1", ":1-5", ":1:1", ":(x)"))
    return st.tuples(st.one_of(diffs, shows, shows), lines).map("".join)


# --- images ---------------------------------------------------------------------------------------------------

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def picture(kind: str) -> bytes:
    """A small valid file."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((24, 16)).convert("P" if kind == "GIF" else "RGB").save(file, kind)
    return file.getvalue()


PICTURES = {kind: picture(kind) for kind in FORMATS}


def mutated(data: bytes, places: Sequence[tuple[float, bytes, int]], cut: float) -> bytes:
    """Bytes put over or between those of a file at some places, and its end cut off."""
    for where, patch, over in places:
        start = int(where * len(data))
        data = data[:start] + patch + data[start + over :]
    return data[: max(1, int(cut * len(data)))]


images = st.builds(
    mutated,
    st.sampled_from(FORMATS).map(PICTURES.__getitem__),
    st.lists(
        st.tuples(
            st.one_of(st.floats(0, 1), st.floats(0, 0.1)),
            st.one_of(st.binary(max_size=8), st.sampled_from((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))),
            st.integers(0, 8),
        ),
        max_size=4,
    ),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)


def as_text(data: bytes, form: str) -> str:
    """Base64, alone or in a data URI."""
    return form + base64.b64encode(data).decode()


FORMS = ("", "data:image/png;base64,", "data:image/svg+xml;base64,", "data:;base64,")

# --- schemas --------------------------------------------------------------------------------------------------

REGEXES = (
    "^a+$", "(a+)+$", "(a|a)*b", "^(?=x)", "(?<n>a)\\k<n>", "[", "a{1,100000}", "(((((((((a)))))))))", "\\p{L}+",
    ".*.*.*=", "^(([a-z])+.)+[A-Z]([a-z])+$", "\\u{110000}", "(?i)x", "\\d{3}-\\d{4}", "^$", "\0", "a" * 5000,
)  # fmt: skip
KEYWORDS = (
    "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "multipleOf", "required", "enum", "const",
    "$ref", "$defs", "$id", "format", "uniqueItems", "dependentRequired", "if", "then", "not", "contains", "type",
)  # fmt: skip


def _objects(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    names = st.text(max_size=6)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=4)}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(-1, 10**6)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$defs": st.dictionaries(names, inner, max_size=2), "$ref": references}),
        st.dictionaries(st.sampled_from(KEYWORDS), st.one_of(inner, values), max_size=3),
    )


references = st.sampled_from(
    ("#", "#/$defs/a", "#/$defs/%00", "#/properties/a", "http://127.0.0.1:9/x", "file:///etc/passwd")
)
leaves = st.one_of(
    st.sampled_from(("string", "integer", "number", "boolean", "null", "object", "array", "nothing")).map(
        lambda name: {"type": name}
    ),
    st.sampled_from(REGEXES).map(lambda regex: {"type": "string", "pattern": regex}),
    st.lists(scalars, max_size=4).map(lambda members: {"enum": members}),
    st.integers(1, 3000).map(lambda count: {"enum": [f"member {number}" for number in range(count)]}),
    references.map(lambda target: {"$ref": target}),
    st.booleans(),
    values,
)


def nested(levels: int) -> Json:
    """An array in an array in an array."""
    schema: Json = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


schemas: st.SearchStrategy[Json] = st.one_of(
    st.recursive(leaves, _objects, max_leaves=8),
    st.recursive(leaves, _objects, max_leaves=8).map(json.dumps),
    st.integers(1, 150).map(nested),
)
