"""``lql run``: sampling, stops, conversations in a pipe and on a terminal, devices, --config."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lql.session import connect
from tests.cli.conftest import Lql

PROMPT = "The capital"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "-1"], "temperature is -1"),
        (["--temperature", "warm"], '"warm" is not a number'),
        (["--top-k", "0", "--temperature", "1"], "at least 1"),
        (["--top-p", "1.5", "--temperature", "1"], "top-p is 1.5"),
        (["--min-p", "2", "--temperature", "1"], "min-p is 2"),
        (["--repetition-penalty", "0"], "repetition-penalty is 0"),
        (["--top-k", "5"], "no effect on greedy"),
        (["--seed", "5"], "no effect on greedy"),
        (["--seed", "x", "--temperature", "1"], "whole number of at least 0"),
        (["--device", "tpu"], "cpu, cuda, auto"),
        (["--recommended", "--top-k", "5"], "no effect on greedy"),
    ],
)
def test_values_that_make_no_sense_are_usage(lql: Lql, words: list[str], message: str) -> None:
    done = lql("run", "tiny.vindex", PROMPT, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_sampling_is_reproducible(lql: Lql) -> None:
    words = ["run", "tiny.vindex", PROMPT, "--max-tokens", "12", "--temperature", "2"]
    one, again, other = (lql(*words, "--seed", seed).stdout for seed in ("7", "7", "8"))
    assert one == again != other
    greedy = lql("run", "tiny.vindex", PROMPT, "--max-tokens", "12").stdout
    assert lql(*words, "--top-k", "1").stdout == greedy


def test_run_samples_as_the_api_does(lql: Lql) -> None:
    from lql.inference import Sampling

    sampling = Sampling(
        temperature=1.5, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=3
    )
    with connect(lql.cwd / "tiny.vindex") as session:
        tokens = session.model().generate(PROMPT, max_tokens=12, sampling=sampling)
        expected = "".join(token.text for token in tokens)
    options = "--temperature 1.5 --top-k 40 --top-p .9 --min-p .01 --repetition-penalty 1.2"
    words = [*options.split(), "--seed", "3", "--max-tokens", "12"]
    assert lql("run", "tiny.vindex", PROMPT, *words).stdout == expected + "\n"


def test_generation_stops_before_a_text(lql: Lql) -> None:
    words = ["run", "tiny.vindex", PROMPT, "--max-tokens", "12"]
    whole = lql(*words).stdout
    stop = whole[3:5]
    done = lql(*words, "--stop", "not in it", "--stop", stop)
    assert done.stdout == whole[: whole.index(stop)] + "\n"


def test_a_model_that_recommends_nothing_is_greedy(lql: Lql) -> None:
    words = ["run", "tiny.vindex", PROMPT, "--max-tokens", "6"]
    assert lql(*words, "--recommended").stdout == lql(*words).stdout


# --------------------------------------------------------------------------- conversations

TURNS = ("The capital", "And then?")
CHAT = ["run", "chat.vindex", "--chat", "--max-tokens", "8"]


def expected_turns(lql: Lql) -> list[str]:
    with connect(lql.cwd / "chat.vindex") as session:
        conversation = session.model().converse()
        return [
            "".join(token.text for token in conversation.reply(said, max_tokens=8))
            for said in TURNS
        ]


def test_lines_are_the_turns_of_a_conversation(lql: Lql) -> None:
    first, second = expected_turns(lql)
    done = lql(*CHAT, "--timing", stdin="\n".join(TURNS))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{first}\n{second}\n"
    read = re.findall(r"cpu, (\d+) tokens read, (\d+) known", done.stderr)
    assert len(read) == 2
    assert read[0][1] == "0"
    assert int(read[1][1]) > 0
    without = lql("run", "chat.vindex", "--max-tokens", "8", stdin="\n".join(TURNS))
    assert without.stdout == done.stdout  # an instruct model chats by default


def test_reset_and_exit(lql: Lql) -> None:
    first, _ = expected_turns(lql)
    lines = f"{TURNS[0]}\n/reset\n{TURNS[0]}\n/exit\n{TURNS[1]}\n"
    done = lql(*CHAT, stdin=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{first}\n{first}\n"


def test_an_unknown_command_is_not_sent_to_the_model(lql: Lql) -> None:
    done = lql(*CHAT, stdin="/rest\n")
    assert done.returncode == 2
    assert "did you mean /reset?" in done.stderr
    assert done.stdout == ""


def test_a_model_without_a_template_cannot_chat(lql: Lql) -> None:
    done = lql("run", "tiny.vindex", "--chat", stdin="Hello\n")
    assert done.returncode == 4
    assert "no chat template" in done.stderr


class Terminal:
    """``lql`` on a pseudo-terminal of its own."""

    def __init__(self, lql: Lql, *words: str) -> None:
        self._main, side = pty.openpty()
        launch = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            " os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, *lql.command(*words)],
            cwd=lql.cwd,
            env=lql.environment({"TERM": "xterm"}),
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def wait_for(self, text: str, patience: float = 60.0) -> None:
        """Read until ``text`` appears after what was waited for before."""
        deadline = time.monotonic() + patience
        while text not in self.text:
            ready, _, _ = select.select([self._main], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} did not come; so far: {self.text!r}"
            try:
                self.text += os.read(self._main, 4096).decode(errors="replace")
            except OSError:  # Linux says so when the other end is closed
                raise AssertionError(f"it ended without {text!r}: {self.text!r}") from None
        self.text = self.text.partition(text)[2]

    def close(self) -> int:
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            os.close(self._main)


def test_a_conversation_on_a_terminal(lql: Lql) -> None:
    """Ctrl-C stops an answer, or at the prompt says how to leave; Ctrl-D leaves."""
    terminal = Terminal(lql, "run", "chat.vindex", "--chat", "--max-tokens", "100000")
    terminal.wait_for("> ")
    terminal.type("\x03")
    terminal.wait_for("Ctrl-D or /exit leaves")
    terminal.wait_for("> ")
    terminal.type("The capital\r")
    terminal.wait_for("The capital")
    time.sleep(0.1)
    terminal.type("\x03")
    terminal.wait_for("> ")
    terminal.type("/rset\r")
    terminal.wait_for("did you mean /reset?")
    terminal.wait_for("> ")
    terminal.type("/reset\r")
    terminal.wait_for("a new conversation")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.close() == 0


# --------------------------------------------------------------------------- devices, --config


def test_a_device_that_is_not_there(lql: Lql) -> None:
    """On a machine with a GPU the same words run."""
    from lql.inference.placement import available

    if "cuda" in available():
        assert lql("run", "tiny.vindex", PROMPT, "--device", "cuda").returncode == 0
        return
    for words in (
        ["run", "tiny.vindex", PROMPT, "--device", "cuda"],
        ["tiny.vindex", "-e", 'INFER "x"', "--device", "cuda"],
        ["tiny.vindex", "-e", "SET device = cuda"],
    ):
        done = lql(*words)
        assert done.returncode == 4, done.stderr
        assert "LQL0405" in done.stderr
        assert "CUDA" in done.stderr
        assert done.stdout == ""
    assert lql("tiny.vindex", "-e", "WALK 'x'", "--device", "cuda").returncode == 0


def test_a_device_is_chosen_and_shown(lql: Lql) -> None:
    done = lql("tiny.vindex", "-e", 'SET device = auto; INFER "x"', "--timing")
    assert done.returncode == 0, done.stderr
    assert re.search(r"5 rows, .*, (cpu|cuda)\n", done.stderr)
    explained = lql("tiny.vindex", "-e", 'EXPLAIN INFER "x"', "--device", "cpu").stdout
    assert "computed with cpu: " in explained


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [
        ("SET devise = cpu", "LQL0206", "did you mean device?"),
        ("SET device = tpu", "LQL0301", "one of cpu, cuda, auto"),
        ("SET device = 1", "LQL0301", "one of cpu, cuda, auto"),
    ],
)
def test_options_that_are_not_there(lql: Lql, statement: str, code: str, message: str) -> None:
    done = lql("-e", statement)
    assert done.returncode == 1
    assert code in done.stderr
    assert message in done.stderr


def test_config_completes_a_lossy_vindex(lql: Lql, data_dir: Path) -> None:
    golden = data_dir / "golden"
    vindex = str(golden / "vindexes" / "qwen2_h96.f16")
    checkpoint = str(golden / "checkpoints" / "qwen2_h96")
    infer = ["-u", vindex, "-e", 'INFER "The capital of France is" TOP 3', "--format", "json"]
    refused = lql(*infer)
    assert refused.returncode == 4
    assert "--config" in refused.stderr
    done = lql(*infer, "--config", checkpoint)
    assert done.returncode == 0, done.stderr
    as_statement = f'USE "{vindex}" CONFIG "{checkpoint}"; INFER "The capital of France is" TOP 3'
    assert lql("-e", as_statement, "--format", "json").stdout == done.stdout
    text = lql("run", vindex, "The capital", "--config", checkpoint, "--max-tokens", "5")
    own = lql("run", checkpoint, "The capital", "--max-tokens", "5")
    assert text.returncode == own.returncode == 0
    assert text.stdout == own.stdout
    assert lql("-e", "STATS", "--config", checkpoint).returncode == 2
