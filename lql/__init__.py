"""LQL: a query language, interpreter and REPL over the weights of language models."""
