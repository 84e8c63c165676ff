"""The style sheet of a page: one column, system fonts, light and dark."""

from typing import Final

_LIGHT = (
    "--ink:#1d2430;--paper:#ffffff;--faint:#dfe4ea;--grey:#7b8794;--soft:#f3f5f8;"
    "--c0:#0a5fb4;--c1:#d1495b;--c2:#1f9d6b;--c3:#c77f00;--c4:#7d4fc3;--c5:#0c99ad;"
    "--c6:#a3581f;--c7:#c0509c;--c8:#5c7a1f;--c9:#56657a;"
)
_DARK = (
    "--ink:#e4e8ee;--paper:#12161c;--faint:#2c343f;--grey:#8b97a5;--soft:#1b2129;"
    "--c0:#5aa9f5;--c1:#f07f8c;--c2:#4fcf9c;--c3:#f0b84a;--c4:#b495f0;--c5:#50cfe0;"
    "--c6:#d99a66;--c7:#e68fc8;--c8:#a9c95c;--c9:#9aaabf;"
)
_KEYS = "".join(f".k{i}{{background:var(--c{i})}}" for i in range(10))

STYLE: Final = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    "*{box-sizing:border-box}"
    "body{margin:0 auto;max-width:46rem;padding:1rem 1rem 4rem;background:var(--paper);color:var(--ink);"
    "font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}"
    "h1{font-size:1.6rem;line-height:1.2;margin:1rem 0 .5rem}"
    "h2{font-size:1.2rem;line-height:1.3;margin:2.5rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--faint)}"
    "p{margin:.5rem 0}.lead{font-size:1.05rem}"
    ".verdict{margin:1rem 0;padding:.75rem 1rem;background:var(--soft);border-left:4px solid var(--grey);"
    "font-weight:600}.verdict.yes{border-color:var(--c2)}.verdict.no{border-color:var(--c1)}"
    ".wide{overflow-x:auto;margin:.75rem 0}"
    "table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}"
    "caption{text-align:left;padding:.25rem 0;color:var(--grey);caption-side:top}"
    "th,td{padding:.3rem .7rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--faint)}"
    "td{white-space:nowrap}td.t{white-space:normal;min-width:14rem}th{font-weight:600;vertical-align:bottom}.n{text-align:right}"
    "figure{margin:1.25rem 0}figure svg{display:block;width:100%;max-width:38rem;height:auto;"
    "font-family:system-ui,sans-serif;fill:var(--ink)}"
    "figcaption{font-size:.9rem;color:var(--grey);margin-top:.35rem}"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1rem;margin:.5rem 0 0;padding:0;font-size:.85rem}"
    ".key{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}"
    ".kg{background:var(--grey)}"
    f"{_KEYS}"
    "details{margin:.35rem 0}summary{cursor:pointer;font-size:.85rem;color:var(--grey)}"
    "footer{margin-top:3rem;font-size:.8rem;color:var(--grey)}"
    "@media(max-width:30rem){body{padding:.5rem .75rem 3rem}h1{font-size:1.35rem}"
    "table{font-size:.78rem}th,td{padding-right:.45rem}}"
    "@media print{details{display:block}body{max-width:none}}"
)
