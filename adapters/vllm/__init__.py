"""GreenCache under vLLM: ``--kv-transfer-config '{"kv_connector": "GreenCacheConnector",
"kv_connector_module_path": "greencache.adapters.vllm", "kv_role": "kv_both"}'``.

Imported inside vLLM's processes: of GreenCache it loads the client and the settings, nothing heavy.
"""  # noqa: D205

from __future__ import annotations

try:
    import vllm  # noqa: F401
except ImportError as _missing:
    raise ImportError(
        "greencache.adapters.vllm runs inside vLLM, which is not installed here: install GreenCache"
        " into vLLM's environment, or vLLM here: pip install vllm"
    ) from _missing

from greencache.adapters.vllm.connector import GreenCacheConnector

__all__ = ["GreenCacheConnector"]
