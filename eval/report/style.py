"""The look of the page: one style sheet, colours as variables for light, dark and paper."""

# Blue and orange stay apart under common colour blindness; marks say the same without colour.
STYLE = """
:root {
  --paper: #fdfdfc; --card: #f5f6f7; --ink: #1b1f24; --muted: #5f6b7a; --line: #e2e5ea; --strong:
  #b9c0ca;
  --rise: 38 118 204; --fall: 222 100 10; --full: .62; --rise-ink: #14589f; --fall-ink: #a84300;
  --this: #5443b8; --other: #87909d; --beyond: #f7ede4;
  --series-0: #2676cc; --series-1: #d9730d; --series-2: #12876f; --series-3: #a3489b;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171c; --card: #1c2027; --ink: #e9ecf0; --muted: #a0abba; --line: #2c333d; --strong:
  #4a5462;
  --rise: 62 137 236; --fall: 232 112 30; --full: .66; --rise-ink: #7db4ff; --fall-ink: #ff9c57;
  --this: #a497ff; --other: #7f8997; --beyond: #2a211b;
  --series-0: #6aaeff; --series-1: #f39a45; --series-2: #3fc5a5; --series-3: #dc86d4;
} }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 Inter,
  ui-sans-serif, system-ui,
  -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 44px 28px 72px; }
section { margin-top: 38px; }
h1 { font-size: 31px; line-height: 1.2; letter-spacing: -.02em; margin: 0; overflow-wrap:
  anywhere; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 0 0 12px; }
h3 { font-size: 17px; margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 10px; align-items:
  center; }
h4 { font-size: 14px; margin: 0 0 8px; }
code, pre, .id { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
code { font-size: .84em; color: var(--muted); font-weight: 400; overflow-wrap: anywhere; }
pre { background: var(--card); padding: 16px 18px; border-radius: 8px; overflow-x: auto;
  font-size: 12.5px;
  line-height: 1.5; }
.summary { font-size: 16.5px; max-width: 88ch; margin: 14px 0 12px; }
.lead, .legend p { color: var(--muted); font-size: 13.5px; max-width: 92ch; margin: 0 0 12px; }
.meta { color: var(--muted); font-size: 13px; display: flex; flex-wrap: wrap; gap: 4px 20px;
  margin: 0; align-items: baseline; }
.meta b { color: var(--ink); font-weight: 500; }
.pill { display: inline-block; vertical-align: middle; font-size: 12.5px; font-weight: 600;
  letter-spacing: 0;
  line-height: 1; padding: 6px 11px; border-radius: 99px; }
.pill.pass { background: rgb(var(--rise) / .16); color: var(--rise-ink); }
.pill.warn, .pill.stop, .pill.rollback,
.pill.repair { background: rgb(var(--fall) / .18); color: var(--fall-ink); }
.pill.quiet { background: var(--card); color: var(--muted); margin-left: 6px; }
.pill:empty { display: none; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
.unit { display: block; color: var(--muted); font-size: 11.5px; font-weight: 400; line-height:
  1.3; }

.matrix { width: 100%; border-spacing: 3px; table-layout: fixed; min-width: 640px; margin: 0 -3px; }
.matrix thead td { width: 92px; }
.matrix th.group { text-align: left; color: var(--muted); font-size: 12px; font-weight: 600;
  padding: 0 6px 3px;
  border-bottom: 2px solid var(--strong); }
.matrix th[scope=col] { text-align: left; vertical-align: bottom; font-size: 13px; line-height:
  1.25;
  padding: 6px 6px 7px; }
.matrix th[scope=row] { text-align: left; font-size: 14px; padding-right: 8px; overflow-wrap:
  anywhere; }
.matrix tbody td { position: relative; padding: 9px 8px 8px; border-radius: 5px; background:
  var(--card);
  line-height: 1.2; }
.matrix .value { display: flex; justify-content: space-between; font-size: 17px; font-weight: 600; }
.matrix .mark { font-size: 12px; line-height: 20px; }
.matrix .held .mark, .matrix .undecided .mark { color: var(--muted); font-weight: 400; }
.matrix .error { font-size: 12px; opacity: .78; white-space: nowrap; }
.matrix td.regressed { box-shadow: inset 0 0 0 2px rgb(var(--fall)); }
.matrix td.missing { background: none; color: var(--muted); font-size: 13px; border: 1px dashed
  var(--line); }
td.rise, i.rise { background: rgb(var(--rise) / calc(var(--heat) * var(--full))) !important; }
td.fall, i.fall { background: rgb(var(--fall) / calc(var(--heat) * var(--full))) !important; }
.legend { margin-top: 12px; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 12.5px; margin: 0 0 6px;
  align-items: center; }
.keys > span { display: inline-flex; align-items: center; gap: 6px; }
.swatches { display: inline-flex; border-radius: 4px; overflow: hidden; outline: 1px solid
  var(--line); }
.swatches i { width: 20px; height: 13px; background: var(--card); }

.changes { width: 100%; font-size: 14px; }
.changes th, .changes td { text-align: right; padding: 3px 10px; border-bottom: 1px solid
  var(--line);
  white-space: nowrap; }
.changes thead th { color: var(--muted); font-size: 12.5px; font-weight: 500; vertical-align:
  bottom;
  white-space: normal; }
.changes th[scope=row], .changes .text, .plain .text, .changes .verdict { text-align: left; }
.changes th[scope=row] { padding-left: 0; line-height: 1.25; font-weight: 500; }
.changes th[scope=row] .unit { font-size: 11px; }
.changes thead th:first-child { padding-left: 0; }
.changes .plot { padding: 0 10px; text-align: center; }
.changes thead .plot { padding-bottom: 1px; }
.axis-name { display: block; }
.changes tbody .plot { border-bottom-color: transparent; }
.changes .light { color: var(--muted); font-size: 13px; }
.verdict b { font-weight: 600; display: inline-block; width: 1.1em; text-align: center; }
.verdict small { color: var(--muted); }
.verdict.improved { color: var(--rise-ink); font-weight: 600; }
.verdict.regressed { color: var(--fall-ink); font-weight: 600; }
.verdict.undecided { color: var(--muted); }
.thin-key { display: inline-block; width: 18px; height: 2px; margin: 0 6px 3px 0; background:
  var(--strong); }

svg { display: block; font-size: 11px; fill: var(--ink); }
svg .tick, svg .hint { fill: var(--muted); font-variant-numeric: tabular-nums; }
svg .title { font-size: 13px; font-weight: 600; }
svg .grid { stroke: var(--line); }
svg .axis, svg .zero { stroke: var(--strong); }
svg .margin { stroke: rgb(var(--fall)); stroke-dasharray: 2 3; }
svg .alarm { fill: var(--fall-ink); }
.forest .beyond { fill: var(--beyond); }
.forest .whisker { stroke: var(--ink); stroke-width: 2; stroke-linecap: round; }
.forest .point, .forest .arrow { fill: var(--ink); }
.forest .improved .whisker { stroke: rgb(var(--rise)); }
.forest .improved .point, .forest .improved .arrow { fill: rgb(var(--rise)); }
.forest .regressed .whisker { stroke: rgb(var(--fall)); }
.forest .regressed .point, .forest .regressed .arrow { fill: rgb(var(--fall)); }
.forest .undecided .point { fill: var(--paper); stroke: var(--ink); stroke-width: 1.6; }
.forest .from-predecessor { opacity: .55; }
.forest .from-predecessor .whisker { stroke-width: 1; }
.forest .from-predecessor .point { r: 2.6px; }

.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(246px, 1fr)); gap: 14px
  16px;
  margin: 20px 0 8px; }
.curve { width: 100%; height: auto; max-width: 320px; }
.curve .line, .path .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.line.series-0 { stroke: var(--series-0); } .dot.series-0 { fill: var(--series-0); }
.line.series-1 { stroke: var(--series-1); } .dot.series-1 { fill: var(--series-1); }
.line.series-2 { stroke: var(--series-2); } .dot.series-2 { fill: var(--series-2); }
.line.series-3 { stroke: var(--series-3); } .dot.series-3 { fill: var(--series-3); }

.paths { display: grid; grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); gap: 18px
  16px;
  margin: 14px 0 26px; }
.path { width: 100%; height: auto; max-width: 300px; }
.this .line { stroke: var(--this); stroke-width: 2; fill: none; }
.this .point { fill: var(--this); } .this .whisker { stroke: var(--this); opacity: .5;
  stroke-width: 1.4; }
.other .line { stroke: var(--other); stroke-width: 1.6; stroke-dasharray: 5 3; fill: none; }
.other .point { fill: var(--paper); stroke: var(--other); stroke-width: 1.6; }
.other .whisker { stroke: var(--other); opacity: .7; stroke-width: 1.4; }
.key { display: inline-block; margin: 0 2px 0 0; } .key ~ .key { margin-left: 22px; }

.lineage { width: 100%; height: auto; }
.lineage .box { fill: var(--card); stroke: var(--strong); }
.lineage .probed .box { stroke: rgb(var(--rise)); stroke-width: 1.5; }
.lineage .unfinished .box, .lineage .to-do .box { fill: none; stroke-dasharray: 4 4; }
.lineage .name { font-size: 15px; font-weight: 600; }
.lineage .id { font-size: 11.5px; fill: var(--muted); }
.lineage .hooks { font-size: 12px; fill: var(--this); font-weight: 600; }
.lineage .edge { fill: none; stroke: var(--muted); stroke-width: 1.6; }
.lineage .edge.reference { stroke-dasharray: 4 3; }
.lineage .head { fill: var(--muted); }

.stage-section { margin-top: 30px; padding-top: 22px; border-top: 1px solid var(--line); }
.facts { margin: 16px 0; display: grid; gap: 5px 28px; font-size: 13.5px;
  grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); }
.facts div { display: grid; grid-template-columns: 76px 1fr; align-content: start; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; grid-column: 2; overflow-wrap: anywhere; }
.facts dt { grid-row: 1; }
details { margin: 10px 0; font-size: 14px; } summary { cursor: pointer; color: var(--muted); }
details ul { margin: 8px 0; padding-left: 22px; font-size: 13.5px; }
.flips { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 14px
  26px; margin-top: 14px; }
.flips .improved h4 b { color: rgb(var(--rise)); } .flips .regressed h4 b { color:
  rgb(var(--fall)); }
.flip { background: var(--card); border-radius: 8px; padding: 10px 14px; margin-bottom: 8px;
  font-size: 13px;
  overflow-wrap: anywhere; }
.flip p { margin: 3px 0 0; } .flip .question { font-weight: 500; }
.who { display: inline-block; min-width: 66px; padding-right: 8px; color: var(--muted); }
.hint { color: var(--muted); font-size: 12.5px; }
.plain { font-size: 13.5px; } .plain td, .plain th { text-align: right; padding: 4px 16px 4px 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
.plain thead th { color: var(--muted); font-weight: 500; } .plain th[scope=row] { text-align:
  left; }
@media (max-width: 900px) { main { padding: 26px 16px 48px; } .matrix { border-spacing: 2px; }
  .matrix .value { font-size: 15px; } .matrix tbody td { padding: 7px 6px; } .matrix thead td {
  width: 70px; }
  .changes { font-size: 13px; } .changes th, .changes td { padding: 3px 5px; } .changes .plot svg
  { width: 168px;
  height: auto; } .changes .light { font-size: 12px; } .verdict small { display: none; }
  .matrix th[scope=col] { font-size: 12px; padding: 5px 4px; } .matrix th[scope=row] { font-size:
  13px; } }
@media print { body { font-size: 11.5px; } main { max-width: none; padding: 0; } .scroll {
  overflow: visible; }
  tr, svg, .flip, .legend { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
