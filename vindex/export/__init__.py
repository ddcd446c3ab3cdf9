"""COMPILE INTO MODEL: a vindex as a checkpoint again, edits included.

``directory`` writes safetensors for transformers, ``gguf`` a file for llama.cpp. What a format
cannot say is refused before anything appears, and what was written is read back and compared.
"""
