"""The real command in a real terminal: keys in, screen out."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.repl.terminal import Terminal

UP, TAB, RIGHT = "\x1b[A", "\t", "\x1b[C"
CTRL_A, CTRL_C, CTRL_D, CTRL_R, ALT_ENTER = "\x01", "\x03", "\x04", "\x12", "\x1b\r"


@pytest.fixture
def shell(terminal: Terminal, tiny_vindex: Path) -> Terminal:
    """The command with the tiny vindex open, at its first prompt."""
    terminal.start(str(tiny_vindex))
    return terminal


def cells(shell: Terminal, first: str) -> list[list[str]]:
    """The words of the screen's rows that begin with ``first``."""
    return [line.split() for line in shell.screen.lines if line.split()[:1] == [first]]


def test_a_statement_is_typed_and_its_table_appears(shell: Terminal) -> None:
    shell.run('INFER "The capital" TOP 3;')

    assert cells(shell, "rank") == [["rank", "token", "token_id", "probability", "logit"]]
    assert [cells(shell, rank)[0][0] for rank in ("1", "2", "3")] == ["1", "2", "3"]
    assert any(line.startswith("3 rows, ") for line in shell.screen.lines)  # the timing line


def test_the_prompt_and_the_toolbar_show_what_is_open(
    terminal: Terminal, tiny_vindex: Path
) -> None:
    terminal.start()
    assert terminal.screen.line == "lql>"
    assert "nothing open" in terminal.screen.text

    terminal.run(f'USE "{tiny_vindex}";')
    assert terminal.screen.line == "tiny.vindex>"
    assert "level inference │ dtype f16 │ weights not loaded" in terminal.screen.text

    terminal.run('INFER "a" TOP 1;')
    assert "weights loaded" in terminal.screen.text


def test_ctrl_d_leaves_with_exit_code_0(shell: Terminal) -> None:
    shell.type(CTRL_D)

    assert shell.exit_code() == 0


@pytest.mark.parametrize("word", ["exit;", "quit", "\\q"])
def test_words_that_leave(word: str, shell: Terminal) -> None:
    shell.type(f"{word}\r")

    assert shell.exit_code() == 0


def test_a_vindex_that_is_none_is_an_error_and_no_shell(terminal: Terminal) -> None:
    terminal.start("nothing.vindex", prompt=False)

    assert terminal.exit_code() == 2
    assert "nothing.vindex" in terminal.screen.text


def test_ctrl_c_at_an_empty_prompt_says_how_to_leave(shell: Terminal) -> None:
    shell.type(CTRL_C)
    shell.wait_for("Ctrl-D or \\q leaves\n")
    shell.type(CTRL_C)
    shell.wait(lambda: shell.screen.text.count("Ctrl-D or \\q leaves\n") == 2)
    shell.wait_for_prompt()


def test_ctrl_c_clears_what_is_typed_and_up_brings_it_back(shell: Terminal) -> None:
    shell.type("SHOW LAY")
    shell.wait_for("> SHOW LAY")
    shell.type(CTRL_C)
    shell.wait_for_prompt()
    shell.type(UP)

    shell.wait_for("> SHOW LAY")


def test_ctrl_c_stops_a_statement_that_enter_has_only_just_begun(shell: Terminal) -> None:
    shell.run('INFER "a" TOP 1;')  # load the backend
    for delay_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
        shell.run("\\clear")
        shell.paste("\n".join(f'EXPLAIN INFER "{number}";' for number in range(200)))
        shell.wait_for('"199"')
        shell.type("\r")
        time.sleep(delay_s)
        shell.type(CTRL_C)
        shell.wait_for("cancelled")
        shell.wait_for_prompt()


def test_ctrl_c_stops_a_running_script(shell: Terminal) -> None:
    shell.paste("\n".join(f'EXPLAIN INFER "word {number}" TOP 1;' for number in range(2000)))
    shell.wait_for('"word 1999"')
    shell.type("\r")
    shell.wait_for("prediction")

    shell.type(CTRL_C)
    shell.wait_for_prompt()

    assert any(line.startswith("cancelled") for line in shell.screen.lines)
    assert "after it did not run" in shell.screen.text
    shell.run("SHOW LAYERS 1-1;")
    assert cells(shell, "1")


@pytest.mark.real_model
@pytest.mark.slow
def test_ctrl_c_stops_a_long_statement_between_its_steps(
    terminal: Terminal, smollm2_gguf: Path
) -> None:
    terminal.start()
    terminal.type(f'EXTRACT MODEL "{smollm2_gguf}" INTO "small.vindex";\r')
    terminal.settle(4.0)  # past the start, long before the end

    pressed = time.monotonic()
    terminal.type(CTRL_C)
    terminal.wait_for_prompt()
    print(f"prompt back after {time.monotonic() - pressed:.2f} s")

    assert any(line.startswith("cancelled") for line in terminal.screen.lines)
    terminal.run("SHOW MODELS;")  # runs once the cancelled statement has ended
    assert list(terminal.directory.iterdir()) == []


def test_leaving_right_after_a_cancelled_statement(shell: Terminal) -> None:
    shell.type('INFER "a" TOP 1;\r')  # loading the backend cannot be stopped at once
    shell.settle(0.3)
    shell.type(CTRL_C)
    shell.wait_for_prompt()
    shell.type(CTRL_D)

    assert shell.exit_code() == 0


def test_an_unfinished_statement_goes_on_in_the_next_line(shell: Terminal) -> None:
    shell.type("SHOW\r")
    shell.wait(lambda: shell.screen.line.endswith("...>"))
    shell.type("LAYERS\r1-1;\r")
    shell.wait_for_prompt()

    assert cells(shell, "1")


def test_tab_completes_a_keyword(shell: Terminal) -> None:
    shell.type("EXPLAIN INF")
    shell.wait_for("INFER")  # the menu
    shell.type(TAB)

    shell.wait(lambda: shell.screen.line.endswith("> EXPLAIN INFER"))


def test_tab_completes_a_path(shell: Terminal) -> None:
    for name in ("one.vindex", "other.vindex"):
        (shell.directory / name).mkdir()
        (shell.directory / name / "index.json").write_text("{}")

    shell.type('USE "on')
    shell.wait_for("one.vindex  vindex")  # the menu
    shell.type(TAB)

    shell.wait(lambda: shell.screen.line.endswith('> USE "one.vindex"'))


def test_enter_on_a_chosen_completion_keeps_it_and_runs_nothing(shell: Terminal) -> None:
    shell.type("SHOW LA")
    shell.wait_for("LAYERS")
    shell.type(TAB)
    shell.wait(lambda: shell.screen.line.endswith("> SHOW LAYERS"))
    shell.type("\r")
    shell.settle(0.3)
    assert cells(shell, "layer") == []

    shell.type(" 1-1;\r")
    shell.wait_for_prompt()
    assert cells(shell, "layer")


def test_a_suggestion_from_history_is_accepted_with_right(shell: Terminal) -> None:
    shell.run("SHOW LAYERS 2-2;")
    shell.type("SHOW LAYERS 2")
    shell.wait(lambda: shell.screen.line.endswith("SHOW LAYERS 2-2;"))
    shell.type(RIGHT)
    shell.type("\r")

    shell.wait(lambda: len(cells(shell, "layer")) == 2)


def test_up_finds_what_begins_like_what_is_typed(shell: Terminal) -> None:
    for line in ("SHOW LAYERS 1-1;", "SHOW LAYERS 2-2;", "STATS;"):
        shell.run(line)
    shell.type("SHOW LAYERS ")  # no menu is open after a space, so that Up means history
    shell.wait_for("> SHOW LAYERS")
    shell.type(f"{UP}{UP}")

    shell.wait(lambda: shell.screen.line.endswith("SHOW LAYERS 1-1;"))


def test_ctrl_r_searches_history(shell: Terminal) -> None:
    shell.run("SHOW LAYERS 1-1;")
    shell.run("STATS;")
    shell.type(CTRL_R)
    shell.wait_for("I-search backward")
    shell.type("1-1")
    shell.wait_for("> SHOW LAYERS 1-1;")
    shell.type("\r")
    shell.wait(lambda: shell.screen.line.endswith("SHOW LAYERS 1-1;"))
    shell.type("\r")

    shell.wait(lambda: len(cells(shell, "layer")) == 2)


def test_history_survives_a_kill(terminal: Terminal, tiny_vindex: Path, tmp_path: Path) -> None:
    terminal.start(str(tiny_vindex))
    terminal.type(f"SHOW{ALT_ENTER}LAYERS 1-1;\r")
    terminal.wait(lambda: cells(terminal, "layer"))
    terminal.kill()
    with Terminal(tmp_path) as other:
        other.start(str(tiny_vindex))
        other.type(UP)

        other.wait_for("> SHOW\n")
        other.wait_for("> LAYERS 1-1;")


def test_a_paste_runs_with_enter_and_not_before(shell: Terminal) -> None:
    shell.paste("SHOW LAYERS 1-1;\nSHOW LAYERS 2-2;\n")
    shell.wait_for("LAYERS 2-2;")
    shell.settle(0.3)
    assert cells(shell, "layer") == []

    shell.type("\r")
    shell.wait(lambda: len(cells(shell, "layer")) == 2)
    shell.wait_for_prompt()


def test_an_error_shows_its_place_and_the_shell_goes_on(shell: Terminal) -> None:
    shell.run("SHOW LAYRS;")

    assert "error[LQL0104]" in shell.screen.text
    assert cells(shell, "1") == [["1", "|", "SHOW", "LAYRS;"]]
    shell.run("SHOW LAYERS 3-3;")
    assert cells(shell, "3")


def test_keys_pressed_while_a_statement_runs_stand_at_the_next_prompt(shell: Terminal) -> None:
    shell.type('INFER "a" TOP 1;\r')  # loading the backend takes a while
    shell.settle(0.3)
    assert "rank" not in shell.screen.text
    shell.type("SHOW LAYERS 1")

    shell.wait(lambda: shell.screen.line == "tiny.vindex> SHOW LAYERS 1")
    assert cells(shell, "rank")
    assert shell.screen.text.count("SHOW LAYERS 1") == 1


def test_ctrl_d_pressed_while_a_statement_runs_leaves_after_it(shell: Terminal) -> None:
    shell.type('INFER "a" TOP 1;\r')
    shell.settle(0.3)
    shell.type(CTRL_D)

    assert shell.exit_code() == 0
    assert cells(shell, "rank")


def test_the_terminal_is_left_as_it_was(terminal: Terminal, tiny_vindex: Path) -> None:
    before = terminal.modes
    terminal.start(str(tiny_vindex))
    terminal.run("STATS;")
    terminal.type(CTRL_D)
    terminal.exit_code()

    assert terminal.modes == before


def test_vi_keys_edit_what_is_typed(shell: Terminal) -> None:
    shell.run("\\keys vi")
    shell.type("XSHOW LAYERS 1-1;")
    shell.wait(lambda: shell.screen.line.endswith("> XSHOW LAYERS 1-1;"))
    shell.type("\x1b")
    shell.settle(1.0)  # until Escape is no longer the beginning of a key
    shell.type("0x")  # to the beginning; delete a character
    shell.wait(lambda: shell.screen.line.endswith("> SHOW LAYERS 1-1;"))
    shell.type("\r")
    shell.wait_for_prompt()
    assert cells(shell, "1")


def test_clear_empties_the_screen(shell: Terminal) -> None:
    shell.run("STATS;")
    shell.type("\\clear\r")

    shell.wait(lambda: shell.screen.row == 0)
    shell.wait_for_prompt()
    assert "STATS" not in shell.screen.text


def test_results_go_to_a_file_while_the_prompt_stays_on_the_terminal(
    terminal: Terminal, tiny_vindex: Path
) -> None:
    terminal.start(str(tiny_vindex), stdout=terminal.directory / "out.txt")
    terminal.run("\\format jsonl")
    terminal.run("SHOW LAYERS 1-1;")

    text = (terminal.directory / "out.txt").read_text()
    assert text.startswith('{"layer": 1')
    assert text.count("\n") == 1
    assert '"layer"' not in terminal.screen.text


def test_a_dumb_terminal_is_enough(terminal: Terminal, tiny_vindex: Path) -> None:
    terminal.start(str(tiny_vindex), prompt=False, environment={"TERM": "dumb"})
    terminal.wait_for("tiny.vindex>")
    terminal.type("SHOW LAYERS 1-1;\r")
    terminal.wait(lambda: cells(terminal, "1") and terminal.screen.line == "tiny.vindex>")
    terminal.type("exit\r")

    assert terminal.exit_code() == 0


@pytest.mark.parametrize(("color", "styled"), [("always", True), ("never", False)])
def test_colour_follows_the_option(
    color: str, styled: bool, terminal: Terminal, tiny_vindex: Path
) -> None:
    terminal.start(str(tiny_vindex), f"--color={color}")
    terminal.type('INFER "a"')
    terminal.wait_for('INFER "a"')

    assert ("\x1b[0;32m" in terminal.raw) is styled  # a green string


PAGER = "import sys; text = sys.stdin.read(); print(f'PAGED {text.count(chr(10))} LINES')"


def test_the_pager_shows_what_does_not_fit_and_only_that(
    terminal: Terminal, tiny_vindex: Path
) -> None:
    script = terminal.directory / "page.py"
    script.write_text(PAGER)
    environment = {"PAGER": f"{sys.executable} {script}"}
    terminal.start(str(tiny_vindex), environment=environment)
    terminal.run("SHOW LAYERS;")
    assert "PAGED" not in terminal.screen.text
    terminal.run("SHOW FEATURES 1 LIMIT 60;")
    assert "PAGED 62 LINES" in terminal.screen.text
    assert cells(terminal, "59") == []

    terminal.run("\\pager off")
    terminal.run("SHOW FEATURES 1 LIMIT 60;")
    assert terminal.screen.text.count("PAGED") == 0


# A handler in Python may have to wait for the next key: where the signal comes as reading begins.
WAITING = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
text = sys.stdin.read()
print("PAGED", flush=True)
signal.sigwait([signal.SIGINT])
print("STILL HERE", flush=True)
with open("/dev/tty") as keys:
    while keys.read(1) != "q":
        pass
"""


def test_ctrl_c_in_a_pager_belongs_to_the_pager(terminal: Terminal, tiny_vindex: Path) -> None:
    script = terminal.directory / "page.py"
    script.write_text(WAITING)
    terminal.start(str(tiny_vindex), environment={"PAGER": f"{sys.executable} {script}"})
    terminal.type("SHOW FEATURES 1 LIMIT 60;\r")
    terminal.wait_for("PAGED")
    terminal.type(CTRL_C)
    terminal.wait_for("STILL HERE")
    terminal.type("q")

    terminal.wait_for_prompt()
    terminal.run("SHOW LAYERS 1-1;")
    assert cells(terminal, "1")


def test_names_of_the_vindex_are_offered_while_typing(shell: Terminal) -> None:
    shell.wait(lambda: "reading names" not in shell.screen.text)
    shell.type('DESCRIBE "It')
    shell.wait_for("Ital")  # the menu
    shell.type(TAB)
    shell.wait(lambda: shell.screen.line.endswith('> DESCRIBE "Ital"'))


def test_ctrl_c_ends_watching(shell: Terminal) -> None:
    shell.run("SHOW LAYERS 1-1;")
    shell.type("\\watch 0.2\r")
    shell.wait(lambda: len(cells(shell, "layer")) >= 3)
    shell.type(CTRL_C)

    shell.wait_for_prompt()
    assert "ended" in shell.screen.text or "cancelled" in shell.screen.text


def test_the_prompt_marks_edits_that_no_file_holds(shell: Terminal) -> None:
    shell.type('BEGIN PATCH "facts.vlp";\r')
    shell.wait(lambda: shell.screen.line == "tiny.vindex*>")
    edit = '(entity, relation, target) VALUES ("Hungary", "capital", "Oslo") CHECK NONE'
    shell.type(f"INSERT INTO EDGES {edit};\r")
    shell.wait(lambda: shell.screen.line == "tiny.vindex*!>")
    shell.run("DISCARD PATCH;")
    shell.wait(lambda: shell.screen.line == "tiny.vindex>")
