"""The model as tables, and SELECT over them.

::

    ast.Select ──scope──▶ which table and column each name means    (schema, scope)
               ──query──▶ SQL with bound values                     (conditions, query)
               ──store──▶ the relations that it reads               (store, edges, rows)
               ──engine─▶ rows                                      (engine: DuckDB)

Two things never mix: identifiers of the SQL come from ``schema`` alone, values of a statement are
bound and never become text of it. Gate vectors, embeddings and weights are not tables: they stay
in their files, and NEAREST asks NumPy.
"""
