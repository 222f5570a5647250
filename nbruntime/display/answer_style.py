"""The styling of answers, while they grow and when they are complete."""

_RULES = """
.nbr.nbr-answers.nbr-answers{font-size:var(--jp-content-font-size1,14px);
line-height:var(--jp-content-line-height,1.6);
font-family:var(--jp-content-font-family,var(--vscode-font-family,inherit));
color:var(--jp-content-font-color1,var(--vscode-foreground,inherit));
max-width:48em;margin:0 0 .4em;position:relative;text-align:left}
.nbr{--nbr-line:var(--jp-border-color2,var(--vscode-panel-border,rgba(128,128,128,.35)));
--nbr-tint:var(--jp-cell-editor-background,var(--vscode-textCodeBlock-background,rgba(128,128,128,.1)))}
.nbr-live .widget-html,.nbr-live .widget-html-content,.nbr-live .widget-vbox,.nbr-live .nbr-text,
.nbr-pieces .nbr-text{display:contents;font-size:inherit;line-height:inherit}
.nbr-live.widget-vbox{display:block;overflow:visible}
.widget-hbox>.nbr.nbr-answers.nbr-answers{flex:1 1 0;min-width:0;margin-right:2em;align-self:flex-start}
.nbr-live:has(>button.nbr-stop) .nbr-foot{padding-right:5em}
.nbr .nbr-text{overflow-wrap:anywhere}
.nbr .nbr-plain{white-space:pre-wrap}
& p,& ul,& ol,& table,& blockquote,& pre{margin:0 0 .7em;line-height:inherit;font-size:inherit;
color:inherit;text-align:left}
& ul,& ol{padding-left:1.7em}
& ul{list-style-type:disc}
& li{margin:.15em 0}
& li>p,& li>ul,& li>ol{margin:0}
& li>p+p,& li>pre{margin:.4em 0}
& h1,& h2,& h3,& h4,& h5,& h6{margin:1.1em 0 .4em;padding:0;border:0;font-weight:600;line-height:1.3;
color:inherit;font-style:normal;text-align:left}
& h1{font-size:1.35em}& h2{font-size:1.2em}& h3{font-size:1.08em}& h4,& h5,& h6{font-size:1em}
& blockquote{padding:0 0 0 1em;border:0;border-left:2px solid var(--nbr-line);opacity:.85}
& hr{margin:1em 0;border:0;border-top:1px solid var(--nbr-line);height:0;background:none}
& a{color:var(--jp-content-link-color,var(--vscode-textLink-foreground,#3a6fb0))}
& code{font-family:var(--jp-code-font-family,var(--vscode-editor-font-family,monospace));font-size:.92em;
line-height:inherit;padding:.1em .3em;border-radius:2px;background:var(--nbr-tint);color:inherit;
white-space:pre-wrap}
& pre{padding:.6em .8em;border:0;border-radius:2px;max-height:none;overflow:auto hidden;
background:var(--nbr-tint);font-size:.92em;line-height:1.5;white-space:pre;overflow-wrap:normal}
& pre>code{padding:0;background:none;font-size:inherit;white-space:inherit}
& table{border-collapse:collapse;border:0;width:auto;max-width:100%;table-layout:auto}
& thead,& tr,& tbody tr:nth-child(n){background:none;border:0;padding:0;line-height:inherit;text-align:left}
& th,& td{padding:.2em 1.4em .2em 0;text-align:left;vertical-align:top;max-width:none;
line-height:inherit;white-space:normal;background:none;border:0;border-bottom:1px solid var(--nbr-line)}
& th{font-weight:600}
.nbr .nbr-into-code>pre:last-child{margin-bottom:0;padding-bottom:0;
border-bottom-left-radius:0;border-bottom-right-radius:0}
.nbr .nbr-from-code>pre:first-child{margin-top:-1px;padding-top:1px;
border-top-left-radius:0;border-top-right-radius:0}
.nbr .nbr-into-list>ul:last-child,.nbr .nbr-into-list>ol:last-child,.nbr .nbr-into-line>p:last-child,
.nbr .nbr-into-table>table:last-child{margin-bottom:0}
.nbr .nbr-from-table>table:first-child>thead{display:none}
.nbr .nbr-into-text>p:last-child,.nbr .nbr-from-text>p:first-child{display:inline}
.nbr .nbr-from-text:not(.nbr-into-text)>p:first-child::after{content:"";display:block;height:.7em}
.nbr-answers .nbr-head{margin:0 0 .2em;font-size:.86em}
.nbr-answers .nbr-next{margin-top:1.2em}
.nbr-answers .nbr-foot{font-size:.86em;font-variant-numeric:tabular-nums;line-height:1.7}
.nbr-answers .nbr-plain+.nbr-foot{margin-top:.7em}
.nbr-text .k{font-weight:600;
color:var(--jp-mirror-editor-keyword-color,var(--vscode-debugTokenExpression-name,#7b4ba6))}
.nbr-text .s{color:var(--jp-mirror-editor-string-color,var(--vscode-debugTokenExpression-string,#b3451f))}
.nbr-text .c{font-style:italic;
color:var(--jp-mirror-editor-comment-color,var(--vscode-descriptionForeground,#5f7f7f))}
.nbr-text .m{color:var(--jp-mirror-editor-number-color,var(--vscode-debugTokenExpression-number,#1a7f5a))}
.nbr-text .nf{
color:var(--jp-mirror-editor-def-color,var(--vscode-symbolIcon-functionForeground,#3a6fb0))}
.nbr-text .nb{color:var(--jp-mirror-editor-builtin-color,inherit)}
.nbr-text .gd{color:var(--nbr-bad,#b3451f)}.nbr-text .gi{color:var(--nbr-good,#1a7f5a)}
.nbr-caret{display:inline-block;width:.45em;height:1em;margin-left:.1em;vertical-align:-.12em;
background:currentColor;opacity:.55;animation:nbr-blink 1s steps(2) infinite}
@keyframes nbr-blink{50%{opacity:0}}
@media(prefers-reduced-motion:reduce){.nbr-caret{animation:none}}
.nbr.nbr-live button.nbr-stop{position:absolute;right:0;bottom:0;width:auto;height:auto;margin:0;
padding:0 .8em;font-family:inherit;font-size:.86em;line-height:1.6;background:none;color:inherit;
border:1px solid var(--nbr-line);border-radius:2px;box-shadow:none}
.nbr.nbr-live button.nbr-stop:hover{border-color:currentColor}
"""

LIVE_STYLE = _RULES.strip().replace("\n", "").replace("&", ".nbr .nbr-text.nbr-text")
"""Goes with `nbruntime.display.cards.STYLE`. The wrappers of widgets have no box, so that nothing moves when
the static form replaces the live one. The prefix for ``&`` outweighs Jupyter's own rules for HTML
(jupyterlab 4.6, ``.jp-ThemedContainer .jp-RenderedHTMLCommon``)."""
