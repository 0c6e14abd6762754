"""How rows enter the lake: synthetic days (`generate`) and existing files (`importing`).

    tabular.sources -> importing ─┐
                       generate ──┴─> writing -> publishing

Either way, a day becomes visible in one step; `publishing` documents the exact guarantees.
"""
