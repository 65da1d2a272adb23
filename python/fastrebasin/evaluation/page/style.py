"""The page's style: one sheet for light and dark, wide and narrow."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1a1f2b; --muted: #5b6475; --rule: #dde1e8;
  --accent: #2563eb; --soft: #cfdcf8; --bar: #b9c2d0;
  --s0: #6b7280; --s1: #2563eb; --s2: #c2410c; --s3: #0f766e;
  --s4: #9333ea; --s5: #a16207; --s6: #be185d; --s7: #0369a1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151c; --card: #1a202b; --ink: #e7eaf0; --muted: #a3adbd; --rule: #323a48;
    --accent: #7aa5ff; --soft: #2b3c63; --bar: #4d586b;
    --s0: #a3adbd; --s1: #7aa5ff; --s2: #fb9a5b; --s3: #4fd1bd;
    --s4: #c99bff; --s5: #e3c04f; --s6: #f78fbf; --s7: #6cc4f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 0.25rem; }
p { margin: 0.25rem 0 1rem; max-width: 46rem; }
section {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 1.1rem 1.2rem; margin: 1.1rem 0;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.8rem; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 0.8rem 1rem; }
.tile strong { display: block; font-size: 1.6rem; line-height: 1.2; }
.tile span { color: var(--muted); font-size: 0.875rem; overflow-wrap: anywhere; }
.tile.best { border-color: var(--accent); }
.tile.best strong { color: var(--accent); }
.charts { display: grid; gap: 1.2rem 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.charts + .charts { margin-top: 1.2rem; }
.stack { display: grid; gap: 1.2rem; align-content: start; }
figure { margin: 0; min-width: 0; max-width: 560px; }
figcaption { font-weight: 600; font-size: 0.9375rem; margin-bottom: 0.3rem;
  overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg svg { overflow: hidden; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
.caption { color: var(--muted); font-size: 0.875rem; margin-bottom: 0.3rem; }
td { white-space: nowrap; }
th, td { padding: 0.35rem 0.8rem; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; }
thead th { color: var(--muted); font-size: 0.875rem; vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 8rem; }
tr.best td, tr.best th { font-weight: 700; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: 0.8rem; }
footer, .note { color: var(--muted); font-size: 0.875rem; }
text { font-size: 12px; fill: var(--ink); }
.tick, .value { fill: var(--muted); }
.value { font-variant-numeric: tabular-nums; }
text.strong { font-weight: 700; fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.frame { fill: none; stroke: var(--rule); }
.guide { fill: none; stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 4; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
.s3 { stroke: var(--s3); } .s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); }
.s6 { stroke: var(--s6); } .s7 { stroke: var(--s7); }
.bar { fill: var(--bar); } .bar.strong { fill: var(--accent); }
.mark { stroke: var(--card); stroke-width: 1.5; fill: var(--s2); }
.m1 { fill: var(--s3); } .m2 { fill: var(--s4); } .m3 { fill: var(--s5); }
.m4 { fill: var(--s2); } .m5 { fill: var(--s6); } .m6 { fill: var(--s7); } .m7 { fill: var(--s1); }
.mark.hollow { fill: var(--card); stroke: var(--s2); stroke-width: 2; }
.joint { stroke: var(--muted); stroke-width: 2; }
.cells { image-rendering: pixelated; }
.contour { fill: none; stroke: var(--ink); stroke-opacity: 0.4; stroke-width: 1; }
.level, .place { paint-order: stroke; stroke: var(--card); stroke-width: 3; }
.level { font-size: 11px; text-anchor: middle; }
.place { font-weight: 700; }
.corner { fill: var(--card); stroke: var(--ink); stroke-width: 2.5; }
.way { stroke: var(--ink); stroke-width: 1.8; stroke-dasharray: 5 4; }
.way.aligned { stroke-dasharray: none; }
@media (max-width: 480px) {
  body { padding: 1rem 0.6rem 3rem; } section { padding: 0.9rem 0.8rem; }
  text { font-size: 13.5px; }
}
@media print { section { break-inside: avoid; } body { background: none; } }
"""
