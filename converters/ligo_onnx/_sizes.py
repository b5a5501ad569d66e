from __future__ import annotations
def config_from_graph(*a):
    raise NotImplementedError
