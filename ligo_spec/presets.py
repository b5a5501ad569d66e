"""Presets: papers' methods as named plan fragments."""

from __future__ import annotations

PRESETS = {
    "ligo": '{"width": {"method": "noisy_average"}, "depth": {"method": "noisy_stack"}}',
    "stackbert": '{"depth": {"method": "stack"}}',
    "net2net": '{"width": {"method": "net2net"}, "depth": {"method": "stack"}}',
    "hypercloning": '{"width": {"method": "hypercloning"}, "depth": {"method": "stack"}}',
    "gstack": '{"depth": {"method": "stack"}}',
    "llama_pro": '{"depth": {"method": "identity"}}',
    "solar": '{"depth": {"method": "overlap"}}',
    "mslt": '{"depth": {"method": "copy_last"}}',
    "midas": '{"depth": {"method": "copy_middle"}}',
    "bert2bert": '{"width": {"method": "bert2bert"}, "depth": {"method": "stack"}}',
    "staged": '{"width": {"method": "staged"}}',
    "lemon": '{"width": {"method": "lemon"}}',
}
"""By name: the ``operator`` of a plan, as JSON. ``ligo`` is the start of arXiv 2303.00980's operator."""
