"""LQL scripts that run as they are; ``lql demo`` runs ``demo.lql``."""
