"""Hooks: methods against forgetting, behind one interface. `base.py` says where each may act."""
