"""Pictures of results: the only room that imports matplotlib.

``figure`` draws any result that has a picture, ``encoded`` makes it a file's bytes: the same for
PLOT on the command line, for a notebook and for Python. Drawing needs no display and touches no
global state of ``pyplot``; the same result gives the same bytes.

One module per picture: ``lens`` (the logit lens), ``waterfall`` (what adds up to a logit),
``attention`` (what heads look at),
``graph`` (DESCRIBE), ``edit`` (the report of an edit), ``bars`` (INFER); ``style`` is how all of
them look, ``files`` their formats.

::

    from lql.plots import figure
    figure(session.query('EXPLAIN INFER "The capital of France is"')).savefig("lens.pdf")
"""

from lql.plots.drawing import PICTURES, figure, picture_of
from lql.plots.files import FORMATS, PictureFormat, encoded

__all__ = ["FORMATS", "PICTURES", "PictureFormat", "encoded", "figure", "picture_of"]
