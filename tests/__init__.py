"""The tests; a package, so that `tests` of some other project in site-packages is never taken for it."""
