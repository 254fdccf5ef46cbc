// Draws the calls between services on a canvas: a line for each edge, and on it particles that move as requests do.
// Their number follows requests per second; what went wrong differs in shape as well as colour. For those who prefer
// less motion nothing moves: arrows and numbers say the same.

import type { Edge } from './model'
import { edgeId, type Placed, type Point } from './layout'
import { rate } from './format'

type Kind = 'normal' | 'warning' | 'danger'

interface Track {
  edge: Edge
  points: Point[] // every few pixels of the way
  length: number
  shape: Path2D
  owed: Record<Kind, number> // particles not yet let go, below 1
}

interface Particle { track: Track; at: number; lane: number; kind: Kind }

export interface Look { // colours, as CSS says them now
  line: string
  normal: string
  warning: string
  danger: string
  text: string
  paper: string
  font: string
}

const sample = 4 // px between the points of a track
const frame = 1000 / 32 // ms; more would cost a processor and not look better

export class Painter {
  private ctx: CanvasRenderingContext2D
  private tracks = new Map<string, Track>()
  private particles: Particle[] = []
  private placed?: Placed
  private look?: Look
  private still = false
  private frozen = false
  private busiest = 1
  private shown = new Set<string>() // edges of the node in focus
  private timer = 0
  private last = 0
  private dirty = true

  constructor(private canvas: HTMLCanvasElement) {
    this.ctx = canvas.getContext('2d')!
    const tick = (now: number) => {
      this.timer = requestAnimationFrame(tick)
      if (!this.placed || now - this.last < frame - 2 || ((this.still || this.frozen) && !this.dirty)) return
      const passed = Math.min(now - this.last, 100) / 1000
      this.last = now
      if (!this.still && !this.frozen) this.move(passed)
      this.draw()
      this.dirty = false
    }
    this.timer = requestAnimationFrame(tick)
  }

  stop() {
    cancelAnimationFrame(this.timer)
  }

  /** Takes a new picture. Where the way of an edge is unchanged its particles travel on; in a frozen one they stand. */
  show(placed: Placed, edges: Edge[], look: Look, still: boolean, frozen: boolean, focus: string | undefined) {
    const moved = placed !== this.placed
    const node = placed.node
    this.placed = placed
    this.look = look
    this.still = still
    this.frozen = frozen
    this.dirty = true
    this.busiest = Math.max(1, ...edges.map(e => e.rps))
    this.shown = new Set(edges.filter(e => e.source === focus || e.target === focus).map(edgeId))
    const kept = new Map<string, Track>()
    const ports = portsOf(edges, placed, node)
    for (const e of edges) {
      const id = edgeId(e)
      const old = this.tracks.get(id)
      if (old && !moved) {
        old.edge = e
        kept.set(id, old)
        continue
      }
      const t = trackOf(e, placed, node, ports)
      if (t) kept.set(id, t)
    }
    this.tracks = kept
    if (moved) {
      const ratio = Math.min(window.devicePixelRatio || 1, 2)
      this.canvas.width = Math.round(placed.width * ratio)
      this.canvas.height = Math.round(placed.height * ratio)
      this.canvas.style.width = placed.width + 'px'
      this.canvas.style.height = placed.height + 'px'
      this.ctx.setTransform(ratio, 0, 0, ratio, 0, 0)
      this.particles = []
      if (!still) for (let i = 0; i < 60; i++) this.move(0.1) // not an empty road at first sight
    }
    this.particles = still ? [] : this.particles.filter(p => kept.get(edgeId(p.track.edge)) === p.track)
  }

  private speed() {
    return 78 + (this.placed!.width > 1500 ? 24 : 0) // px per second
  }

  private move(s: number) {
    for (const t of this.tracks.values()) {
      const e = t.edge
      if (e.rps <= 0) continue
      const all = Math.max(0.5, (e.rps / this.busiest) * 15) // particles per second
      const share: Record<Kind, number> = { normal: Math.max(0, 1 - e.warning - e.danger), warning: e.warning, danger: e.danger }
      for (const kind of ['normal', 'warning', 'danger'] as const) {
        if (share[kind] <= 0) continue
        const n = Math.max(all * share[kind], kind === 'normal' ? 0 : 0.35) // a rare error is still seen
        t.owed[kind] += n * s * (0.6 + 0.8 * Math.random())
        for (; t.owed[kind] >= 1; t.owed[kind]--) {
          if (this.particles.length < 900) this.particles.push({ track: t, at: Math.random() * this.speed() * s, lane: (Math.random() - 0.5) * 5, kind })
        }
      }
    }
    const far = this.speed() * s
    for (const p of this.particles) p.at += far
    this.particles = this.particles.filter(p => p.at < p.track.length)
  }

  private draw() {
    const { ctx, look, placed } = this
    if (!look || !placed) return
    ctx.clearRect(0, 0, placed.width, placed.height)
    ctx.lineCap = 'round'
    const quiet = this.shown.size > 0
    for (const [id, t] of this.tracks) {
      const c = t.edge.class
      ctx.globalAlpha = quiet && !this.shown.has(id) ? 0.3 : 1
      ctx.strokeStyle = c === 'normal' ? (this.shown.has(id) ? look.normal : look.line) : look[c]
      ctx.lineWidth = 1.2 + 1.8 * Math.sqrt(t.edge.rps / this.busiest)
      ctx.setLineDash(c === 'warning' ? [9, 5] : c === 'danger' ? [2, 5] : [])
      if (c !== 'normal') ctx.globalAlpha *= 0.75
      ctx.stroke(t.shape)
    }
    ctx.setLineDash([])
    for (const p of this.particles) {
      const { x, y, dx, dy } = along(p.track, p.at)
      const edge = Math.min(1, p.at / 14, (p.track.length - p.at) / 14) // fade in and out at the nodes
      ctx.globalAlpha = Math.max(0, edge) * (quiet && !this.shown.has(edgeId(p.track.edge)) ? 0.25 : 1)
      ctx.fillStyle = look[p.kind]
      mark(ctx, p.kind, x - dy * p.lane, y + dx * p.lane)
    }
    ctx.globalAlpha = 1
    if (this.still) for (const t of this.tracks.values()) this.arrows(t)
    if (this.still || this.shown.size) this.numbers()
  }

  private arrows(t: Track) {
    if (t.edge.rps <= 0) return
    const { ctx, look } = this
    ctx.fillStyle = look![t.edge.class]
    const gap = 46
    for (let at = (t.length % gap) / 2 + gap / 2; at < t.length - 6; at += gap) {
      const { x, y, dx, dy } = along(t, at)
      ctx.beginPath()
      ctx.moveTo(x + dx * 6, y + dy * 6)
      ctx.lineTo(x - dx * 4 - dy * 4.5, y - dy * 4 + dx * 4.5)
      ctx.lineTo(x - dx * 4 + dy * 4.5, y - dy * 4 - dx * 4.5)
      ctx.fill()
    }
  }

  private numbers() {
    const { ctx, look } = this
    ctx.font = look!.font
    ctx.textAlign = 'center'
    ctx.textBaseline = 'middle'
    const taken: { x: number; y: number; w: number }[] = []
    for (const [id, t] of this.tracks) {
      if (this.shown.size && !this.shown.has(id)) continue
      const bad = t.edge.danger >= 0.001 ? `, ${(t.edge.danger * 100).toFixed(1)} % errors` : ''
      const short = `${rate(t.edge.rps)}/s`
      const text = bad && ctx.measureText(short + bad).width + 20 < t.length ? short + bad : short
      const w = ctx.measureText(text).width + 12
      const free = [0.5, 0.38, 0.62, 0.28, 0.72, 0.2, 0.8].map(k => along(t, t.length * k)).find(p => !taken.some(o => Math.abs(o.y - p.y) < 20 && Math.abs(o.x - p.x) < (o.w + w) / 2))
      if (!free) continue
      taken.push({ x: free.x, y: free.y, w })
      ctx.fillStyle = look!.paper
      ctx.strokeStyle = t.edge.class === 'normal' ? look!.line : look![t.edge.class]
      ctx.lineWidth = 1
      ctx.beginPath()
      ctx.roundRect(free.x - w / 2, free.y - 9.5, w, 19, 9.5)
      ctx.fill()
      ctx.stroke()
      ctx.fillStyle = look!.text
      ctx.fillText(text, free.x, free.y + 0.5)
    }
  }
}

function mark(ctx: CanvasRenderingContext2D, kind: Kind, x: number, y: number) {
  ctx.beginPath()
  switch (kind) {
    case 'normal':
      ctx.arc(x, y, 2, 0, 2 * Math.PI)
      break
    case 'warning': // a triangle
      ctx.moveTo(x, y - 4)
      ctx.lineTo(x + 3.8, y + 3)
      ctx.lineTo(x - 3.8, y + 3)
      break
    case 'danger': // a diamond
      ctx.moveTo(x, y - 4.6)
      ctx.lineTo(x + 4.6, y)
      ctx.lineTo(x, y + 4.6)
      ctx.lineTo(x - 4.6, y)
  }
  ctx.fill()
}

// Where edges leave and enter: side by side on the node's edge, in the order of what they lead to.
function portsOf(edges: Edge[], placed: Placed, node: { w: number; h: number }): Map<string, { out: number; in: number }> {
  const side = (p: Point | undefined) => (p ? (placed.vertical ? p.x : p.y) : 0)
  const ports = new Map(edges.map(e => [edgeId(e), { out: 0, in: 0 }]))
  const room = placed.vertical ? node.w * 0.5 : node.h * 0.5
  const share = (key: 'source' | 'target', port: 'out' | 'in') => {
    for (const name of new Set(edges.map(e => e[key]))) {
      const mine = edges.filter(e => e[key] === name).sort((a, b) => toward(a, key) - toward(b, key))
      const step = Math.min(11, room / Math.max(1, mine.length - 1))
      mine.forEach((e, i) => (ports.get(edgeId(e))![port] = (i - (mine.length - 1) / 2) * step))
    }
  }
  const toward = (e: Edge, key: 'source' | 'target') => {
    const bends = placed.paths.get(edgeId(e)) ?? []
    const next = key === 'source' ? bends[0] : bends[bends.length - 1]
    return side(next ?? placed.at.get(key === 'source' ? e.target : e.source))
  }
  share('source', 'out')
  share('target', 'in')
  return ports
}

function trackOf(edge: Edge, placed: Placed, node: { w: number; h: number }, ports: Map<string, { out: number; in: number }>): Track | undefined {
  const [a, b] = [placed.at.get(edge.source), placed.at.get(edge.target)]
  if (!a || !b || edge.source === edge.target) return undefined
  const port = ports.get(edgeId(edge))!
  const way: Point[] = placed.vertical
    ? [{ x: a.x + port.out, y: a.y + (b.y >= a.y ? node.h / 2 : -node.h / 2) }, { x: b.x + port.in, y: b.y + (b.y >= a.y ? -node.h / 2 : node.h / 2) }]
    : [{ x: a.x + (b.x >= a.x ? node.w / 2 : -node.w / 2), y: a.y + port.out }, ...(placed.paths.get(edgeId(edge)) ?? []), { x: b.x + (b.x > a.x ? -node.w / 2 : node.w / 2), y: b.y + port.in }]
  const shape = new Path2D()
  const fine: Point[] = []
  shape.moveTo(way[0].x, way[0].y)
  for (let i = 1; i < way.length; i++) {
    const [p, q] = [way[i - 1], way[i]]
    const [dx, dy] = placed.vertical ? [0, (q.y - p.y) / 2] : [(q.x - p.x) / 2, 0]
    shape.bezierCurveTo(p.x + dx, p.y + dy, q.x - dx, q.y - dy, q.x, q.y)
    const steps = Math.max(2, Math.ceil(Math.hypot(q.x - p.x, q.y - p.y) / 2))
    for (let k = i === 1 ? 0 : 1; k <= steps; k++) fine.push(bezier(p, { x: p.x + dx, y: p.y + dy }, { x: q.x - dx, y: q.y - dy }, q, k / steps))
  }
  // The same way again in equal steps, so that a place on it is found by division.
  const points: Point[] = [fine[0]]
  let left = sample
  for (let i = 1; i < fine.length; i++) {
    let [p, far] = [fine[i - 1], Math.hypot(fine[i].x - fine[i - 1].x, fine[i].y - fine[i - 1].y)]
    while (far >= left && far > 0) {
      p = { x: p.x + ((fine[i].x - p.x) * left) / far, y: p.y + ((fine[i].y - p.y) * left) / far }
      points.push(p)
      far -= left
      left = sample
    }
    left -= far
  }
  return { edge, points, length: (points.length - 1) * sample, shape, owed: { normal: Math.random(), warning: Math.random(), danger: Math.random() } }
}

function bezier(a: Point, b: Point, c: Point, d: Point, t: number): Point {
  const u = 1 - t
  const [k0, k1, k2, k3] = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t]
  return { x: k0 * a.x + k1 * b.x + k2 * c.x + k3 * d.x, y: k0 * a.y + k1 * b.y + k2 * c.y + k3 * d.y }
}

function along(t: Track, at: number): Point & { dx: number; dy: number } {
  if (t.points.length < 2) return { ...t.points[0], dx: 1, dy: 0 }
  const i = Math.min(t.points.length - 2, Math.max(0, Math.floor(at / sample)))
  const [p, q] = [t.points[i], t.points[i + 1]]
  const k = Math.min(1, at / sample - i)
  return { x: p.x + (q.x - p.x) * k, y: p.y + (q.y - p.y) * k, dx: (q.x - p.x) / sample, dy: (q.y - p.y) / sample }
}
