"""The closed vocabularies of the language: every word list that a clause chooses from.

A member's value is the keyword as it is written. The words that the format defines, levels and
dtypes, come from ``vindex.kinds``, which needs no NumPy.
"""

from __future__ import annotations

from enum import Enum

from vindex.kinds import ExtractLevel as ExtractLevel
from vindex.kinds import Quant as Quant
from vindex.kinds import StorageDtype as StorageDtype


class Component(Enum):
    """A part of a model that EXTRACT can be limited to."""

    FFN_GATE = "FFN_GATE"
    FFN_DOWN = "FFN_DOWN"
    FFN_UP = "FFN_UP"
    EMBEDDINGS = "EMBEDDINGS"
    ATTN_OV = "ATTN_OV"
    ATTN_QK = "ATTN_QK"


class ModelFormat(Enum):
    """What COMPILE writes."""

    SAFETENSORS = "SAFETENSORS"
    GGUF = "GGUF"


class ModelQuant(Enum):
    """The blocks that COMPILE INTO MODEL … FORMAT gguf writes matrices in."""

    Q8_0 = "Q8_0"
    Q4_K = "Q4_K"


class PatchConflict(Enum):
    """What COMPILE does when several patches write one slot."""

    LAST_WINS = "LAST_WINS"
    HIGHEST_CONFIDENCE = "HIGHEST_CONFIDENCE"
    FAIL = "FAIL"


class MergeConflict(Enum):
    """Which side MERGE keeps when both hold an edge."""

    KEEP_SOURCE = "KEEP_SOURCE"
    KEEP_TARGET = "KEEP_TARGET"
    HIGHEST_CONFIDENCE = "HIGHEST_CONFIDENCE"


class Band(Enum):
    """A run of layers by what they hold."""

    SYNTAX = "SYNTAX"
    KNOWLEDGE = "KNOWLEDGE"
    OUTPUT = "OUTPUT"
    ALL = "ALL LAYERS"


class Detail(Enum):
    """How much DESCRIBE and SHOW RELATIONS tell of an edge."""

    BRIEF = "BRIEF"
    VERBOSE = "VERBOSE"
    RAW = "RAW"


class Evidence(Enum):
    """How DESCRIBE finds its rows."""

    ANSWER = "ANSWER"
    STATIC = "STATIC"
    ALL = "ALL"


class WalkMode(Enum):
    """Which scores WALK ranks by."""

    HYBRID = "HYBRID"
    PURE = "PURE"
    DENSE = "DENSE"


class InsertMode(Enum):
    """How INSERT holds a fact: beside the weights, in a slot of them, or all over a few layers."""

    KNN = "KNN"
    COMPOSE = "COMPOSE"
    MEMIT = "MEMIT"


class Check(Enum):
    """How much an edit measures of what it changed."""

    NONE = "NONE"
    QUICK = "QUICK"
    FULL = "FULL"


class PromptMode(Enum):
    """Whether a prompt is wrapped in the model's chat template or sent as it stands."""

    CHAT = "CHAT"
    RAW = "RAW"


class Device(Enum):
    """Where a model runs. AUTO is the GPU if there is one with room for it, else the processor."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class TracePositions(Enum):
    """Which token positions TRACE captures."""

    LAST = "LAST"
    ALL = "ALL"


class Table(Enum):
    """What SELECT reads from."""

    EDGES = "EDGES"
    FEATURES = "FEATURES"
    ENTITIES = "ENTITIES"
    RELATIONS = "RELATIONS"
    LAYERS = "LAYERS"
    TOKENS = "TOKENS"
    PATCHES = "PATCHES"
    MODELS = "MODELS"
    TRACE = "TRACE"


class Comparator(Enum):
    """An order or equality operator of WHERE; ``<>`` is read as ``!=``."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


class Function(Enum):
    """An aggregate function of SELECT, HAVING and ORDER BY."""

    COUNT = "COUNT"
    SUM = "SUM"
    AVG = "AVG"
    MIN = "MIN"
    MAX = "MAX"


class Direction(Enum):
    """The direction of one ORDER BY key."""

    ASC = "ASC"
    DESC = "DESC"


class SlotType(Enum):
    """What kind of literal a place takes; the text is how messages call it."""

    TEXT = "a string in quotes"
    INTEGER = "a whole number"
    NUMBER = "a number"
    VALUE = "a string or a number"
    LIST = "a list in parentheses"


class Slot(Enum):
    """What a literal stands for at its place. Types parameters, and chooses value completion."""

    MODEL = "model"
    VINDEX_PATH = "vindex path"
    URL = "url"
    OUTPUT_PATH = "output path"
    PATCH_PATH = "patch path"
    FACTS_PATH = "path of a file of facts"
    SCRIPT_PATH = "path of a script"
    TRACE_PATH = "path of a saved trace"
    TEXT_PATH = "path of a text file"
    PROMPT = "prompt"
    ENTITY = "entity"
    RELATION = "relation"
    TARGET = "target"
    TEMPLATE = "template"
    KIND = "kind"
    MESSAGE = "message"
    LAYER = "layer"
    INDEX = "number of a head or feature"
    POSITION = "position in the prompt"
    COUNT = "number of rows"
    TOP = "number of results"
    OFFSET = "offset"
    STEPS = "number of steps"
    NUMBER = "number"
    VALUE = "value"
    VALUES = "list of values"
    PATTERN = "pattern"
    FIELD = "column"

    @property
    def type(self) -> SlotType:
        """The kind of literal that stands here; a ``FIELD`` is a bare name instead."""
        return _SLOT_TYPES.get(self, SlotType.TEXT)

    @property
    def minimum(self) -> int | None:
        """The smallest whole number that makes sense here, or ``None`` where any does."""
        return _SLOT_MINIMA.get(self)


_SLOT_TYPES = {
    Slot.LAYER: SlotType.INTEGER,
    Slot.INDEX: SlotType.INTEGER,
    Slot.POSITION: SlotType.INTEGER,
    Slot.COUNT: SlotType.INTEGER,
    Slot.TOP: SlotType.INTEGER,
    Slot.OFFSET: SlotType.INTEGER,
    Slot.STEPS: SlotType.INTEGER,
    Slot.NUMBER: SlotType.NUMBER,
    Slot.VALUE: SlotType.VALUE,
    Slot.VALUES: SlotType.LIST,
}

_SLOT_MINIMA = {
    Slot.LAYER: 0,
    Slot.INDEX: 0,
    Slot.COUNT: 0,
    Slot.OFFSET: 0,
    Slot.TOP: 1,
    Slot.STEPS: 1,
}
