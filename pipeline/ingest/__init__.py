"""How rows come into the lake: synthetic days (`generate`) and files of others (`importing`).

    sources (delimited, jsonlines) -> importing ─┐
                                    generate ────┴─> writing -> publishing

Whatever the way in, a day becomes visible in one step; see `publishing` for what exactly is promised.
"""
