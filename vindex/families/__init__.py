"""Families of the vindex package."""
