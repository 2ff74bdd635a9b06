"""The three ways to a block of ComfyUI's models: `places/families.py` says which of them reaches which stack."""
