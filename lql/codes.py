"""The catalogue of error codes: one stable code per meaning, with its exit code.

=====  ==========================================  =========
Codes  About                                       Exit code
=====  ==========================================  =========
01xx   the text is not LQL                         1
02xx   a name that stands for nothing              1
03xx   a literal of the wrong kind or range        1
04xx   the vindex or machine cannot do this        4
05xx   the statement failed while running          1
06xx   a vindex cannot be opened or verified       3
07xx   a checkpoint cannot be read or balanced     1
09xx   not available yet (1); wrong usage (2)      1, 2
9999   a bug in lql                                70
=====  ==========================================  =========
"""

from __future__ import annotations

from enum import Enum

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_VINDEX = 3
EXIT_CAPABILITY = 4
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class Code(Enum):
    """A kind of error. ``id`` is stable across versions, ``meaning`` is one line for people."""

    UNEXPECTED = ("LQL0101", "a word or symbol stands where it cannot")
    UNFINISHED = ("LQL0102", "the text ends in the middle of a statement")
    UNKNOWN_STATEMENT = ("LQL0103", "no statement begins with this word")
    MISSPELT_KEYWORD = ("LQL0104", "a word looks like a keyword that could stand here")
    UNQUOTED_TEXT = ("LQL0105", "text stands without quotes")
    UNCLOSED_STRING = ("LQL0106", "a string is opened and never closed")
    CURLY_QUOTES = ("LQL0107", "typographic quotes instead of straight ones")
    BAD_CHARACTER = ("LQL0108", "a character that LQL does not use")
    MISSING_SEMICOLON = ("LQL0109", "two statements without a ; between them")
    MISSING_CLAUSE = ("LQL0110", "a statement lacks a part it cannot do without")
    REPEATED_CLAUSE = ("LQL0111", "a clause is written twice, or two exclude each other")
    CLAUSE_ORDER = ("LQL0112", "the clauses of SELECT stand in the wrong order")
    UNCLOSED_COMMENT = ("LQL0113", "a comment is opened and never closed")
    TOO_DEEP = ("LQL0114", "parentheses, NOT or EXPLAIN are nested too deeply")
    BAD_NUMBER = ("LQL0116", "a number is written in a way that LQL does not read")
    TOO_LONG = ("LQL0117", "the text is longer than a script may be")
    BAD_COLUMNS = ("LQL0118", "the columns of a statement are not the ones it takes")

    UNBOUND_PARAMETER = ("LQL0201", "a :parameter has no value")
    UNUSED_PARAMETER = ("LQL0202", "a value is given for a parameter that does not occur")
    UNKNOWN_RELATION = ("LQL0203", "the vindex has no such relation")
    UNKNOWN_COLUMN = ("LQL0204", "the table has no such column")
    UNKNOWN_PATCH = ("LQL0205", "no such patch is applied")
    UNKNOWN_OPTION = ("LQL0206", "SET knows no such option")
    UNKNOWN_KIND = ("LQL0207", "the relation catalogue has no such kind of entity")
    UNKNOWN_QUESTION = ("LQL0210", "there is no template that asks for the relation")

    WRONG_TYPE = ("LQL0301", "a literal of the wrong kind")
    OUT_OF_RANGE = ("LQL0302", "a number outside the range that makes sense here")
    INVERTED_RANGE = ("LQL0303", "a range whose end lies before its beginning")

    LEVEL_TOO_LOW = ("LQL0401", "the vindex was extracted at a level without what this needs")
    UNSUPPORTED = ("LQL0402", "a model family, dtype or layout this version cannot run exactly")
    BACKEND_MISSING = ("LQL0403", "a part of the installation that this needs is absent")
    NOT_ENOUGH_MEMORY = ("LQL0404", "the machine has too little memory for this")
    DEVICE_MISSING = ("LQL0405", "the device asked for is not there, or torch cannot use it")

    NOTHING_OPEN = ("LQL0501", "no vindex or model is in use")
    TARGET_EXISTS = ("LQL0502", "the output path is taken")
    CANCELLED = ("LQL0503", "the statement was cancelled")
    EMPTY_PROMPT = ("LQL0504", "the prompt holds no token")
    NEEDS_VINDEX = ("LQL0505", "a model is in use, and this needs a vindex")
    FILE_FAILED = ("LQL0506", "a file cannot be read or written")
    FAILED = ("LQL0507", "the statement failed")
    UNSAVED_EDITS = ("LQL0508", "edits that no file holds would be lost")
    NOT_MET = ("LQL0509", "an edit does not do what REQUIRE asks, and was not made")
    PATCH_INVALID = ("LQL0510", "a patch file is malformed or does not fit the vindex")
    OTHER_BASE = ("LQL0511", "a patch was made over other weights")
    FACTS_INVALID = ("LQL0512", "a file of facts, or a fact, cannot be read")
    PATCH_CONFLICT = ("LQL0530", "patches say different things about one fact or feature")
    FACTS_NO_WEIGHTS = ("LQL0531", "stored facts cannot be written into a checkpoint")
    CLAUSE_MISPLACED = ("LQL0532", "a clause that this form of the statement does not have")
    MERGE_MISFIT = ("LQL0533", "the vindexes of a MERGE are not edits of one model")
    TOO_MANY_ROWS = ("LQL0540", "a statement would touch more rows than it may without saying so")
    NO_FREE_FEATURE = ("LQL0541", "every feature of the layer is in use")

    ENTITIES_INVALID = ("LQL0550", "a list of entities, or an entity, cannot be read")
    NOTHING_PROBED = ("LQL0551", "there are too few kept answers to label features from")

    TRACE_CLAUSES = ("LQL0560", "clauses of TRACE or INFER that need or exclude each other")
    TRACE_INVALID = ("LQL0561", "a file is no trace")
    NO_TRACE = ("LQL0562", "no saved trace is in use, or it is of another model")
    TRACE_OPEN = ("LQL0563", "the parts of a trace do not add up to the residual stream")

    NO_POSITION = ("LQL0564", "the prompt, or the saved trace, has no such position")

    ASSERTION_FAILED = ("LQL0570", "what ASSERT says does not hold")
    INCLUDE_CYCLE = ("LQL0571", "a file includes itself, directly or through others")
    INCLUDE_FAILED = ("LQL0572", "an included file cannot be read")
    NOT_ONE_VALUE = ("LQL0573", "the SELECT of an ASSERT gives no single value")

    OWN_FACT_UNKNOWN = ("LQL0574", "the model does not clearly know a fact that is to be changed")
    NOT_FORGOTTEN = ("LQL0575", "no change was found with which the model forgets a fact")

    NO_PICTURE = ("LQL0590", "a result that there is no picture of")
    PICTURE_NOWHERE = ("LQL0591", "PLOT without TO where nothing can show a picture")

    STATISTICS_INVALID = ("LQL0520", "a text for STATISTICS FROM cannot be read")

    VINDEX_NOT_FOUND = ("LQL0601", "the path holds no vindex")
    VINDEX_INVALID = ("LQL0602", "a file of the vindex contradicts itself or another")
    VINDEX_INCOMPLETE = ("LQL0603", "the vindex lacks tensors or files")
    VERIFY_FAILED = ("LQL0604", "bytes on disk differ from what was sealed")

    CHECKPOINT_UNREADABLE = ("LQL0701", "a checkpoint cannot be found or read")
    LEDGER_REFUSAL = ("LQL0702", "a checkpoint has unknown tensors or lacks some")
    OPTIONS_CONFLICT = ("LQL0703", "what EXTRACT is asked for does not go together")

    NOT_AVAILABLE_YET = ("LQL0901", "the statement parses and is not available yet")
    USAGE = ("LQL0902", "the command line or the configuration is wrong")

    INTERNAL = ("LQL9999", "a bug in lql")

    @property
    def id(self) -> str:
        """The stable code, e.g. ``LQL0101``."""
        return self.value[0]

    @property
    def meaning(self) -> str:
        """One line about the code, without a full stop."""
        return self.value[1]

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ends with this error."""
        if self is Code.CANCELLED:
            return EXIT_INTERRUPTED
        if self is Code.USAGE:
            return EXIT_USAGE
        return _FAMILY_EXITS.get(self.id[3:5], EXIT_FAILED)


_FAMILY_EXITS = {"04": EXIT_CAPABILITY, "06": EXIT_VINDEX, "99": EXIT_BUG}
