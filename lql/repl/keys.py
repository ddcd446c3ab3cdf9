"""Key bindings: what differs from prompt_toolkit's Emacs keys, and what help says about keys."""

from __future__ import annotations

from collections.abc import Callable

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent

from lql.repl.buffer import Enter, enter
from lql.repl.help_text import Entry
from lql.repl.history import PrivateHistory

KEYS: tuple[Entry, ...] = (
    Entry("Enter", "run a finished statement; begin a new line in an unfinished one"),
    Entry("Alt-Enter", "begin a new line"),
    Entry("Tab", "complete keywords, paths and commands"),
    Entry("Right", "accept the grey suggestion from history"),
    Entry("Up, Down", "older and newer input that begins like what is typed"),
    Entry("Ctrl-R", "search history"),
    Entry("Ctrl-C", "clear the input; stop a running statement, twice: leave it behind"),
    Entry("Ctrl-D", "leave, where nothing is typed"),
)
LEAVING_HINT = "Ctrl-D or \\q leaves"


def bindings(history: PrivateHistory, say: Callable[[str], None]) -> KeyBindings:
    """The shell's own keys.

    Args:
        history: keeps text that Ctrl-C clears.
        say: prints a line above the prompt.
    """
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None  # the choice stands in the text already
            return
        match enter(buffer.text):
            case Enter.RUN:
                buffer.validate_and_handle()
            case Enter.NEWLINE:
                buffer.newline(copy_margin=False)

    @keys.add("escape", "enter", filter=typing)
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c", filter=typing)
    @keys.add("<sigint>", filter=typing)
    def _interrupt(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text:
            history.keep_unsent(buffer.text)
            buffer.reset()
        else:
            run_in_terminal(lambda: say(LEAVING_HINT))

    return keys
