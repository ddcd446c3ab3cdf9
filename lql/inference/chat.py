"""Chat templates: programs in Jinja that come with a model, and so from strangers.

A template runs in Jinja's immutable sandbox, which guards Python, inside a process of its own
with limits on memory, processor time, wall time and output, which guard the machine: no sandbox
inside this process could stop ``'x' * 10**9`` or loops within loops. Costs some 80 ms a prompt.

Importing this module does not import jinja2.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lql.inference.errors import ChatTemplateFailed

_WORKER = Path(__file__).with_name("chat_worker.py")


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """What rendering a template may cost.

    Attributes:
        source: characters of the template. The longest released ones have some 20 thousand.
        output: characters of the rendered chat.
        memory_bytes: address space of the worker, Python and Jinja included.
        cpu_seconds, wall_seconds: of the worker, its start included.
    """

    source: int = 256 * 1024
    output: int = 1024 * 1024
    memory_bytes: int = 512 * 1024 * 1024
    cpu_seconds: int = 5
    wall_seconds: float = 20.0


def render(template: str, variables: Mapping[str, Any], limits: ChatLimits = ChatLimits()) -> str:
    """Render a chat template.

    Args:
        template: Jinja source.
        variables: JSON-like values: ``messages``, ``add_generation_prompt``, special tokens, ...

    Raises:
        ChatTemplateFailed: the template is refused, fails, or exceeds a limit.
    """
    if len(template) > limits.source:
        raise _failed(f"it has {len(template)} characters, the limit is {limits.source}")
    request = {
        "template": template,
        "variables": dict(variables),
        "output_limit": limits.output,
        "memory_limit": limits.memory_bytes,
        "cpu_limit": limits.cpu_seconds,
    }
    try:
        # -P: the modules beside the worker must not stand in for Python's own.
        done = subprocess.run(
            [sys.executable, "-P", str(_WORKER)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=limits.wall_seconds,
            start_new_session=True,  # a Ctrl-C of the terminal is the interpreter's to handle
        )
    except subprocess.TimeoutExpired:
        raise _failed(f"it takes longer than {limits.wall_seconds:g} seconds") from None
    if done.returncode < 0:  # killed by a signal: the processor limit, or the system's memory
        raise _failed("it exceeds its limits of processor time and memory")
    if done.returncode > 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise _failed(f"rendering ended with {last[0]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise _failed(answer["error"])
    text: str = answer["text"]
    return text


def _failed(reason: str) -> ChatTemplateFailed:
    return ChatTemplateFailed(
        f"the model's chat template cannot be used: {reason}", hint="write RAW instead of CHAT"
    )
