// The live picture: who calls whom, how much, and how it goes.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { type Edge, type Node, outside, zoneLetter } from './model'
import { edgeId, place } from './layout'
import { Painter } from './painter'
import { classWord, color, Mark, useMedia, useWidth, Zones } from './ui'
import { percent, rate, seconds } from './format'

const keptFor = 5 * 60_000 // what vanishes keeps its place this long

// What was seen on this page so far, so that a node which dies for a while leaves a gap instead of moving the others.
const seen = { nodes: new Map<string, number>(), edges: new Map<string, { source: string; target: string; at: number }>() }

export function label(name: string): string {
  return name === outside ? 'internet' : name
}

function remember(nodes: Node[], edges: Edge[], now: number) {
  for (const n of nodes) seen.nodes.set(n.name, now)
  for (const e of edges) seen.edges.set(edgeId(e), { source: e.source, target: e.target, at: now })
  for (const [k, at] of seen.nodes) if (now - at > keptFor) seen.nodes.delete(k)
  for (const [k, e] of seen.edges) if (now - e.at > keptFor) seen.edges.delete(k)
}

interface Props {
  nodes: Node[]
  edges: Edge[]
  now: number
  theme: string
  stale: boolean // the figures are old: nothing moves
  selected: string | undefined
  select: (name: string | undefined) => void
}

export function Graph({ nodes, edges, now, theme, stale, selected, select }: Props) {
  const [box, width] = useWidth<HTMLDivElement>()
  const canvas = useRef<HTMLCanvasElement>(null)
  const painter = useRef<Painter | undefined>(undefined)
  const [hovered, hover] = useState<string>()
  const still = useMedia('(prefers-reduced-motion: reduce)')
  remember(nodes, edges, now)
  const lines = [...seen.edges.values()].sort((a, b) => edgeId(a).localeCompare(edgeId(b)))
  const calls = new Set(lines.flatMap(l => [l.source, l.target]))
  const names = [...seen.nodes.keys()].filter(n => calls.has(n)).sort()
  const quiet = [...seen.nodes.keys()].filter(n => !calls.has(n) && n !== outside).sort()
  const shape = names.join() + '|' + lines.map(edgeId).join()
  const scale = Math.min(1.45, Math.max(1, width / 1400))
  const room = Math.round(Math.max(0, innerHeight - 400) / 40) * 40
  const least = { w: Math.floor(width < 600 ? Math.min(170, (width - 18) / 2) : 148 * scale), h: Math.round((innerHeight < 960 ? 72 : 86) * scale) }
  const placed = useMemo(() => (width ? place(names, lines, outside, width, room, least, Math.round((innerHeight < 960 ? 14 : 18) * scale)) : undefined), [shape, width, room])
  const focus = hovered ?? selected
  const look = useMemo(() => ({
    line: color('edge'), normal: color('flow'), warning: color('warning'), danger: color('danger'), text: color('text'), paper: color('surface'),
    font: `600 11px ${getComputedStyle(document.body).fontFamily}`,
  }), [theme])
  useEffect(() => {
    painter.current = new Painter(canvas.current!)
    return () => painter.current!.stop()
  }, [])
  useEffect(() => {
    if (!placed) return
    painter.current!.show(placed, edges, look, still, stale, focus)
  })
  const size = placed?.node ?? least
  const known = new Map(nodes.map(n => [n.name, n]))
  return (
    <>
    <div class={stale ? 'graph old' : 'graph'} ref={box} style={{ height: (placed && names.length ? placed.height : names.length ? 320 : 0) + 'px', '--node-w': size.w + 'px', '--node-h': size.h + 'px', '--k': scale }} data-testid="graph">
      <canvas ref={canvas} aria-hidden="true" />
      {placed && (
        <ul aria-label="Services, in the order of calls">
          {names.map(name => {
            const p = placed.at.get(name)!
            return (
              <li key={name} style={{ transform: `translate(${Math.round(p.x - size.w / 2)}px, ${Math.round(p.y - size.h / 2)}px)` }}>
                <Card name={name} node={known.get(name)} pressed={selected === name} press={() => select(selected === name ? undefined : name)} hover={on => hover(on ? name : undefined)} />
              </li>
            )
          })}
        </ul>
      )}
    </div>
    {quiet.length > 0 && (
      <div class="without">
        <p id="without-title">Without calls</p>
        <ul aria-labelledby="without-title">
          {quiet.map(name => {
            const s = known.get(name)?.service
            return (
              <li key={name}>
                <button type="button" class="small" aria-pressed={selected === name} data-testid={`node-${name}`} aria-label={`${label(name)}: no calls${s ? `, ${s.up} of ${s.total} instances up` : ''}`} onClick={() => select(selected === name ? undefined : name)}>
                  {label(name)}{s && s.total > 0 && <Zones zones={s.zones} />}
                </button>
              </li>
            )
          })}
        </ul>
      </div>
    )}
    </>
  )
}

function Card({ name, node, pressed, press, hover }: { name: string; node: Node | undefined; pressed: boolean; press: () => void; hover: (on: boolean) => void }) {
  const s = node?.service
  const kind = node?.class ?? 'normal'
  const idle = !node || node.rps === 0
  const told = node
    ? `${label(name)}: ${rate(node.rps)} requests per second, ${percent(node.danger)} errors, ${percent(node.warning)} slow or fallback, p99 ${seconds(node.p99)}${s ? `, ${s.up} of ${s.total} instances up` : ''}, ${idle ? 'no traffic' : classWord[kind]}`
    : `${label(name)}: gone`
  return (
    <button
      type="button" class={`node ${kind}${idle ? ' idle' : ''}${!node ? ' gone' : ''}`} aria-pressed={pressed} aria-label={told} data-testid={`node-${name}`}
      onClick={press} onMouseEnter={() => hover(true)} onMouseLeave={() => hover(false)} onFocus={() => hover(true)} onBlur={() => hover(false)}
    >
      <span class={`node-name${name.length > 13 ? ' long' : ''}`}><Mark kind={kind} /><b>{label(name)}</b></span>
      <span class="node-rate"><b>{rate(node?.rps)}</b><small>/s</small></span>
      <span class="node-late">{seconds(node?.p99)}</span>
      {s && s.total > 0 ? <Zones zones={s.zones} /> : <span class="zones" />}
      <span class="node-errors">
        {node && node.danger >= 0.0005 ? <b class="bad">{percent(node.danger)} err</b> : node && node.warning >= 0.005 ? <b class="warn"><Mark kind="warning" size={9} /> {percent(node.warning)}</b> : idle ? '' : `${percent(node?.danger)} err`}
      </span>
    </button>
  )
}

/** The same picture for those who cannot see it, or want the figures. */
export function GraphTable({ edges }: { edges: Edge[] }) {
  const rows = [...edges].sort((a, b) => b.rps - a.rps)
  return (
    <details class="as-table" data-testid="graph-table">
      <summary>Calls as a table</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label="Calls between services">
        <table>
          <caption class="hidden">Calls between services, the busiest first</caption>
          <thead>
            <tr><th scope="col">From</th><th scope="col">To</th><th scope="col" class="num">Requests/s</th><th scope="col" class="num">Slow or fallback, %</th><th scope="col" class="num">Errors, %</th><th scope="col" class="num">p50, ms</th><th scope="col" class="num">p99, ms</th><th scope="col">State</th></tr>
          </thead>
          <tbody>
            {rows.map(e => (
              <tr key={edgeId(e)}>
                <th scope="row">{label(e.source)}</th><td>{label(e.target)}</td><td class="num">{rate(e.rps)}</td>
                <td class="num">{bare(e.warning * 100)}</td><td class="num">{bare(e.danger * 100)}</td><td class="num">{bare(e.p50 && e.p50 * 1e3)}</td><td class="num">{bare(e.p99 && e.p99 * 1e3)}</td>
                <td><Mark kind={e.class} /> {classWord[e.class]}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  )
}

function bare(n: number | undefined): string {
  return n === undefined || !isFinite(n) ? '–' : n === 0 ? '0' : n < 10 ? n.toFixed(2) : n.toFixed(0)
}

export function Legend() {
  return (
    <ul class="legend" aria-label="How to read the picture">
      <li><Mark kind="normal" /> answered</li>
      <li><Mark kind="warning" /> slow or fallback, dashed line</li>
      <li><Mark kind="danger" /> error, dotted line</li>
      <li class="quiet">more dots, more requests</li>
      <li class="quiet">{zoneLetter('zone-a')}, b, c: zones</li>
    </ul>
  )
}
