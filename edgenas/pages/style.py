"""The style of every page: two themes; one column on a phone, two on a wide screen."""

LIGHT = {
    "bg": "#ffffff",
    "surface": "#f4f6f9",
    "text": "#17202e",
    "muted": "#525d6c",
    "line": "#d3dae3",
    "accent": "#0b5cad",
    "soft": "#d9e8f8",
    "warn": "#b3420a",
    "good": "#12703a",
    "k0": "#dbe9f8",
    "k1": "#a9cdf1",
    "k2": "#74b0ea",
    "dot": "#8a97a8",
}
DARK = {
    "bg": "#11151b",
    "surface": "#1a2029",
    "text": "#e7ebf1",
    "muted": "#a5afbc",
    "line": "#35404d",
    "accent": "#73b7fa",
    "soft": "#183a5d",
    "warn": "#ff9f5f",
    "good": "#68d596",
    "k0": "#1d3147",
    "k1": "#234c74",
    "k2": "#2d669f",
    "dot": "#7f8b9b",
}


def _variables(theme: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in theme.items())


# Rules for drawings, in pages and in pictures.
_DRAWING = """svg text{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}
svg text.strong{fill:var(--text);font-weight:600}
svg text.plain{fill:var(--text)}
svg text.small{font-size:9.5px}
svg text.over{stroke:var(--bg);stroke-width:3px;paint-order:stroke;stroke-linejoin:round}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.seen{stroke:var(--dot);stroke-width:2.6;stroke-linecap:round;fill:none;opacity:.55}
.front{stroke:var(--accent);stroke-width:1.8;fill:none;stroke-linejoin:round}
.second{stroke-dasharray:5 3}
.third{stroke-dasharray:1.5 3;stroke-linecap:round}
.frontdot{fill:var(--accent);stroke:none}
.budget{stroke:var(--warn);stroke-width:1.6;stroke-dasharray:5 3;fill:none}
.predicted{fill:var(--bg);stroke:var(--text);stroke-width:2}
.measured{fill:var(--good);stroke:var(--bg);stroke-width:1.5}
.tried{fill:none;stroke:var(--good);stroke-width:1.5}
.range{stroke:var(--text);stroke-width:2;fill:none}
.span{stroke:var(--good);stroke-width:6;stroke-linecap:round;opacity:.35;fill:none}
.tail{stroke:var(--good);stroke-width:1.5;fill:none}
.bar{fill:var(--accent)}
.track{fill:var(--soft)}
.box{stroke:var(--accent);stroke-width:1}
.k0{fill:var(--k0)}.k1{fill:var(--k1)}.k2{fill:var(--k2)}
.ghost{fill:none;stroke:var(--line);stroke-width:1.2;stroke-dasharray:3 3}
.flow{stroke:var(--muted);stroke-width:1.2;fill:none}
.share{fill:var(--warn)}
"""

# For a picture by itself, which always has the light theme.
DRAWING_CSS = f"svg{{{_variables(LIGHT)}font-family:system-ui,sans-serif}}\n" + _DRAWING

CSS = (
    f"""
:root{{{_variables(LIGHT)}color-scheme:light dark}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
"""
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:70rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:0 0 .6rem}
p{margin:.4rem 0}
a{color:var(--accent)}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.92em;
overflow-wrap:anywhere}
.muted,figcaption,.legend,dt{color:var(--muted)}
.lead{font-size:1.02rem;overflow-wrap:anywhere}
section{margin-top:1.75rem;min-width:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;
margin:1.1rem 0 0;padding:0;list-style:none}
.tiles li{background:var(--surface);border:1px solid var(--line);border-radius:.6rem;
padding:.65rem .8rem;min-width:0}
.tiles b{display:block;font-size:1.3rem;line-height:1.3;font-variant-numeric:tabular-nums}
.tiles span{display:block;font-size:.82rem;color:var(--muted);overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:.8rem;
margin:0;padding:0;list-style:none}
.cards li{background:var(--surface);border:1px solid var(--line);border-radius:.6rem;
padding:.7rem .9rem;min-width:0;overflow-wrap:anywhere}
.cards p{margin:.25rem 0;font-size:.92rem}
.cards b{font-size:1.15rem;font-variant-numeric:tabular-nums}
h3{font-size:1rem;margin:0 0 .3rem}
.promises{list-style:none;padding:0;margin:0}
.promises li{border-left:4px solid var(--good);padding:.15rem 0 .15rem .7rem;margin:.5rem 0;
overflow-wrap:anywhere}
.promises li.broken{border-color:var(--warn)}
.columns>section{break-inside:avoid;padding-top:1.75rem;margin-top:0}
@media (min-width:56rem){.columns{columns:2;column-gap:2.75rem}}
figure{margin:0;max-width:34rem}
figcaption{font-size:.9rem;margin-top:.5rem}
svg{display:block;width:100%;height:auto;overflow:visible;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
"""
    + _DRAWING
    + """.legend{display:flex;flex-wrap:wrap;gap:.3rem 1rem;list-style:none;margin:.5rem 0 0;
padding:0;font-size:.86rem}
.legend li{display:flex;align-items:baseline}
.key{flex:none;display:inline-block;width:1.1rem;height:.7rem;margin-right:.4rem;position:relative;top:.05rem;
border-radius:.2rem;opacity:1}
i.seen{background:var(--dot);width:.5rem;height:.5rem;border-radius:50%;top:-.05rem}
i.front,i.second,i.third{height:0;border-top:.16rem solid var(--accent);border-radius:0;top:-.25rem}
i.second{border-top-style:dashed}
i.third{border-top-style:dotted}
i.budget{height:0;border-top:.16rem dashed var(--warn);border-radius:0;top:-.25rem}
i.predicted{width:.75rem;height:.75rem;border:.14rem solid var(--text);border-radius:50%}
i.measured{width:.75rem;height:.75rem;border-radius:50%;background:var(--good)}
i.tried{width:.7rem;height:.7rem;border:.12rem solid var(--good);border-radius:50%}
i.k0{background:var(--k0)}i.k1{background:var(--k1)}i.k2{background:var(--k2)}
i.k0,i.k1,i.k2{border:1px solid var(--accent)}
i.ghost{border:1px dashed var(--muted)}
i.share{background:var(--warn);height:.3rem;top:-.15rem}
i.bar{background:var(--accent)}
.scroll{overflow-x:auto}
.scroll:focus-visible,a:focus-visible,summary:focus-visible{outline:2px solid var(--accent);
outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:var(--muted);font-weight:600}
.number{text-align:right}
td.number{white-space:nowrap}
dl{margin:0;display:grid;gap:.35rem}
dl>div{display:grid;grid-template-columns:minmax(7rem,11rem) minmax(0,1fr);gap:.8rem}
dt,dd{margin:0;font-size:.92rem}
dd{overflow-wrap:anywhere}
details{margin-top:.6rem}
summary{cursor:pointer;color:var(--accent);font-size:.92rem}
.failed{color:var(--warn);font-weight:600}
@media print{:root{--bg:#fff}.columns{display:block}section{break-inside:avoid}}
"""
)
