"""Chat templates render as transformers renders them, and cannot harm the machine."""

from __future__ import annotations

import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from lql.inference.chat import ChatLimits, render
from lql.inference.errors import ChatTemplateFailed

USER = [{"role": "user", "content": 'Say "<héllo>" & go\n'}]

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('no system turn') }}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""

HELPERS = """{%- set ns = namespace(found=false) %}
{%- for message in messages %}
    {%- if message.content is string and message['role'] == 'user' %}
        {%- set ns.found = true %}
        {% generation %}{{ message.content | tojson }}{% endgeneration %}
        {{ message | tojson(indent=2) }}
        {%- break %}
    {%- endif %}
{%- endfor %}
{{ ns.found }} {{ strftime_now('%Y') }} {{ tools is none }} {{ undefined_thing }}
"""


@pytest.mark.parametrize("template", [CHATML, GEMMA, HELPERS])
@pytest.mark.parametrize("opened", [True, False])
def test_templates_render_as_transformers_renders_them(template: str, opened: bool) -> None:
    variables: dict[str, Any] = {"bos_token": "<bos>", "add_generation_prompt": opened}
    expected, _ = render_jinja_template([USER], chat_template=template, **variables)
    found = render(template, {"messages": USER, "tools": None, "documents": None, **variables})
    assert [found] == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 'a' }}\n{% if %}", "line 2"),
        ("{{ messages[9].content.x }}", "no element 9"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "may not"),
        ("{{ messages.append(1) }}", "may not"),
        ("{{ messages[0].update({'content': 1}) }}", "may not"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests too deeply"),
    ],
)
def test_a_template_that_fails_says_why(template: str, reason: str) -> None:
    with pytest.raises(ChatTemplateFailed, match=reason) as caught:
        render(template, {"messages": USER})
    assert caught.value.hint is not None


SMALL = ChatLimits(output=10_000, cpu_seconds=1, wall_seconds=30.0, memory_bytes=256 << 20)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "time"),
        ("{{ 'x' * 10 ** 10 }}", "memory"),
        ("{% set ns = namespace(t='xx') %}{% for i in range(99) %}{% set ns.t = ns.t ~ ns.t %}"
         "{% endfor %}", "memory"),
        ("{{ '%09999999999d' % 1 }}", "memory|too big|OverflowError|ValueError"),
        ("{% for i in range(20000) %}x{% endfor %}", "10000 characters"),
        ("{% for i in range(200000) %}x{% endfor %}", "OverflowError: Range too big"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
         "{{ f(60) }}", "time"),
    ],
)  # fmt: skip
def test_a_template_cannot_take_more_than_its_limits(template: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(ChatTemplateFailed, match=reason):
        render(template, {"messages": USER}, SMALL)
    assert time.monotonic() - started < 30


def test_wall_time_is_limited_even_where_processor_time_is_not() -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    limits = ChatLimits(cpu_seconds=100, wall_seconds=0.5)
    with pytest.raises(ChatTemplateFailed, match=r"longer than 0\.5 seconds"):
        render(endless, {}, limits)


def test_the_source_is_limited_before_anything_runs() -> None:
    with pytest.raises(ChatTemplateFailed, match="the limit is 5"):
        render("123456", {}, ChatLimits(source=5))


def test_text_survives_the_way_there_and_back() -> None:
    text = "\u2028 \x00 \ud83d\ude00 {{ not a template }} ' \" \\ \r\n"
    assert render("{{ messages[0].content }}", {"messages": [{"content": text}]}) == (
        text.encode("utf-16", "surrogatepass").decode("utf-16")
    )


def test_an_unpaired_surrogate_does_not_break_the_worker() -> None:
    assert render("{{ text }}", {"text": "a\ud83db"}) == "a\ud83db"
