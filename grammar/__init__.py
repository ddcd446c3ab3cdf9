"""The LQL grammar as package data: ``lql.lark``, ``terminals.lark`` and the language reference."""
