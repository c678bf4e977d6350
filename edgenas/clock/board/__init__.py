"""The clock that boards run: small files that need Python 3.8 and the standard library alone."""
