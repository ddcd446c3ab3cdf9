"""The interactive shell: the only user of prompt_toolkit.

``app`` reads and runs; ``buffer`` decides what Enter does; ``completer`` (with ``paths``),
``highlighter``, ``toolbar`` and ``history`` are what typing feels like, ``keys`` binds keys;
``commands`` is the table of backslash commands, over ``shell``, with ``help_text`` and
``help_topics`` behind help; ``runner`` (with ``progress`` and ``tty``) runs statements and answers
Ctrl-C.
"""
