"""Quant of the vindex package."""
